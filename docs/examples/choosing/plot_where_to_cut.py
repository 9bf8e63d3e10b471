"""
Which layer to take features from
=================================

A pretrained network is a chain of stages. Early stages see edges and textures, late ones see what
the network was trained to tell apart. Which of them serves your images is a question for
cross-validation: ``layer`` is a parameter like any other.
"""

# %%
# The table lists the stages of EfficientNet-Lite0, and the share of the network's parameters and
# of its operations that comes before each cut.
from sktransfer import describe_backbone

stages = describe_backbone("efficientnet_lite0", image_size=48)
stages

# %%
# The search over the cut is on a task with few positives: threes among handwritten digits. Every
# image goes through the network once per cut; folds and values of ``C`` share the embeddings.
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.datasets import load_digit_screening

task = load_digit_screening(digit=3)
X, y = task.data[:600], task.target[:600]
pipe = Pipeline(
    [
        (
            "feat",
            PretrainedFeatureExtractor(
                "efficientnet_lite0",
                preprocessing="resize",
                image_size=48,
                value_range=task.value_range,
            ),
        ),
        ("scale", StandardScaler()),
        ("clf", LogisticRegression(class_weight="balanced", max_iter=2000)),
    ]
)
search = GridSearchCV(
    pipe,
    {"feat__layer": list(stages["name"]), "clf__C": [0.01, 1.0]},
    scoring="roc_auc",
    cv=StratifiedKFold(5, shuffle=True, random_state=0),
).fit(X, y)
print(search.best_params_, f"ROC AUC {search.best_score_:.3f}")

# %%
import matplotlib.pyplot as plt
import pandas as pd

results = pd.DataFrame(search.cv_results_)
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for C, rows in results.groupby("param_clf__C"):
    ax.errorbar(
        rows["param_feat__layer"],
        rows["mean_test_score"],
        rows["std_test_score"],
        capsize=3,
        label=f"C={C:g}",
    )
ax.set(xlabel="last stage kept", ylabel="ROC AUC (5 folds)", title="Threes among 600 digits")
ax.tick_params("x", rotation=30)
ax.legend()
