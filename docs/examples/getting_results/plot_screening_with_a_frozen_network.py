"""
Screening with a pretrained network
===================================

This example finds the eights among handwritten digits: one image in ten is positive, as in a
screening program. A frozen EfficientNet-Lite0, trained on photographs, computes the features; a
logistic regression classifies them.
"""

# %%
# The images are 8 x 8 pixels, raveled, with values from 0 to 16.
import matplotlib.pyplot as plt

from sktransfer.datasets import load_digit_screening

task = load_digit_screening(digit=8, positive="eight")  # 1 is "eight", 0 is "other"
figure, axes = plt.subplots(2, 8, figsize=(8, 2.2), layout="constrained")
for ax, image, positive in zip(axes.flat, task.data, task.target, strict=False):
    ax.imshow(image.reshape(8, 8), cmap="gray_r")
    ax.set_title(task.target_names[positive], color="tab:red" if positive else "black")
    ax.set_axis_off()

# %%
# They look little like photographs, so the features are those of all layers. The pipeline is an
# ordinary scikit-learn pipeline.
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor

features = PretrainedFeatureExtractor(
    "efficientnet_lite0",
    layer="all",
    preprocessing="resize",
    image_size=48,
    value_range=task.value_range,
)
pipe = Pipeline(
    [
        ("feat", features),
        ("scale", StandardScaler()),
        ("clf", LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)),
    ]
)

# %%
# The scores are out of fold, and a threshold is chosen inside each training fold for the best
# balanced accuracy there. The network runs once per image, and all folds share the embeddings.
from sklearn.metrics import recall_score, roc_auc_score
from sklearn.model_selection import (
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
)

folds = StratifiedKFold(5, shuffle=True, random_state=0)
scores = cross_val_predict(pipe, task.data, task.target, cv=folds, method="predict_proba")[:, 1]
print(f"ROC AUC {roc_auc_score(task.target, scores):.3f}")

tuned = TunedThresholdClassifierCV(pipe, scoring="balanced_accuracy", cv=5)
decisions = cross_val_predict(tuned, task.data, task.target, cv=folds)
sensitivity = recall_score(task.target, decisions)
specificity = recall_score(task.target, decisions, pos_label=0)
print(f"sensitivity {sensitivity:.3f}, specificity {specificity:.3f}")

# %%
from sklearn.metrics import RocCurveDisplay

display = RocCurveDisplay.from_predictions(
    task.target, scores, name="out-of-fold", plot_chance_level=True
)
display.ax_.plot(1 - specificity, sensitivity, "o", color="tab:red", label="chosen threshold")
display.ax_.legend(loc="lower right")
display.ax_.set_title("Eights among handwritten digits")
