"""
Few positive images: weights, resampling and the threshold
==========================================================

When one image in twenty is positive, a classifier that calls nobody positive is right in 95 % of
all cases. imbalanced-learn's samplers and class weights are what most people try; a threshold is
what most people need. This example compares them on the same X-rays.

The images are PneumoniaMNIST: chest X-rays of children, of 28 by 28 pixels (MedMNIST v2, Yang et
al., 2023, CC BY 4.0; see :ref:`gallery-data`).
"""

# %%
# Pneumonia is made rare: one training image in twenty. The test set has as many of both classes:
# sensitivity, specificity and the area under the curve do not depend on the mixture, and are more
# certain so.
import os
from pathlib import Path

import numpy as np

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
    images = np.concatenate([file["train_images"], file["val_images"], file["test_images"]])
    labels = np.concatenate([file["train_labels"], file["val_labels"], file["test_labels"]]).ravel()
rng = np.random.default_rng(0)
normal, sick = (rng.permutation(np.flatnonzero(labels == c)) for c in (0, 1))
train = np.concatenate([normal[:380], sick[:20]])
test = np.concatenate([normal[380:], sick[20:400]])
names = np.array(["normal", "pneumonia"])
X_train, y_train = images[train], names[labels[train]]
X_test, y_test = images[test], names[labels[test]]
print(
    f"{len(train)} training images, 20 with pneumonia; {len(test)} test images, 380 with pneumonia"
)

# %%
# SMOTE makes new rows between those that there are. It needs numbers, so it goes after the
# extractor, in imbalanced-learn's pipeline, which resamples in ``fit`` only. Undersampling takes a
# table of paths before the extractor, or the features after it.
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.pipeline import make_pipeline
from imblearn.under_sampling import RandomUnderSampler
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor


def pipeline(sampler=None, **params):
    features = PretrainedFeatureExtractor(
        "efficientnet_lite0", layer="all", preprocessing="resize", image_size=96
    )
    classifier = LogisticRegression(C=0.01, max_iter=2000, **params)
    return make_pipeline(features, StandardScaler(), sampler or "passthrough", classifier)


models = {
    "nothing": pipeline(),
    "class_weight='balanced'": pipeline(class_weight="balanced"),
    "RandomUnderSampler": pipeline(RandomUnderSampler(random_state=0)),
    "RandomOverSampler": pipeline(RandomOverSampler(random_state=0)),
    "SMOTE": pipeline(SMOTE(random_state=0)),
}

# %%
# Two columns show whether the ranking gets better, the other two what becomes of decisions at 0.5.
import pandas as pd
from sklearn.metrics import recall_score, roc_auc_score

from sktransfer.metrics import specificity_at_sensitivity

truth = y_test == "pneumonia"
rows, scores = {}, {}
for name, model in models.items():
    scores[name] = model.fit(X_train, y_train).predict_proba(X_test)[:, 1]
    called = scores[name] >= 0.5
    rows[name] = {
        "ROC AUC": roc_auc_score(truth, scores[name]),
        "specificity at sensitivity 0.9": specificity_at_sensitivity(
            truth, scores[name], sensitivity=0.9
        ),
        "sensitivity at 0.5": recall_score(truth, called),
        "specificity at 0.5": recall_score(~truth, ~called),
    }
pd.DataFrame(rows).T.round(3)

# %%
# No remedy ranks better than nothing at all. What differs is where 0.5 is on each curve: weights
# and samplers have moved the threshold, to a place that nobody chose.
import matplotlib.pyplot as plt
from sklearn.metrics import roc_curve

figure, ax = plt.subplots(figsize=(5.6, 4.8), layout="constrained")
for name, score in scores.items():
    fpr, tpr, _ = roc_curve(truth, score)
    (line,) = ax.plot(fpr, tpr, label=name, alpha=0.8)
    at_half = rows[name]["specificity at 0.5"], rows[name]["sensitivity at 0.5"]
    ax.plot(1 - at_half[0], at_half[1], "o", color=line.get_color(), markersize=9)
ax.set(
    xlabel="1 - specificity",
    ylabel="sensitivity",
    title="ROC curves; the dots are a threshold of 0.5",
)
ax.legend(loc="lower right")

# %%
# Choosing it
# -----------
# :class:`~sktransfer.model_selection.OperatingPointClassifier` takes the plain model and a
# sensitivity. With 20 positive images none can be guaranteed at 0.9, for which it takes 29; this
# asks for what was reached out of fold (``confidence_level=None``), without a guarantee.
from sktransfer.metrics import rows_needed
from sktransfer.model_selection import OperatingPointClassifier

print("to guarantee 0.9 it takes", rows_needed(0.9), "positive images")
clf = OperatingPointClassifier(
    models["nothing"], target_level=0.9, confidence_level=None, pos_label="pneumonia"
).fit(X_train, y_train)
called = clf.predict(X_test) == "pneumonia"
print(
    f"threshold {clf.threshold_:.3f}: sensitivity {recall_score(truth, called):.2f}, "
    f"specificity {recall_score(~truth, ~called):.2f}"
)

# %%
# That is the same ranking with the decision that was asked for. It kept more than 0.9 here, which
# is luck: a threshold from 20 cases is as uncertain as they are few.
#
# To compare models at a rate instead of a threshold, use
# :func:`~sktransfer.metrics.specificity_at_sensitivity` or
# :func:`~sktransfer.metrics.sensitivity_at_specificity`.

# sphinx_gallery_thumbnail_path = '_static/gallery/few_positives_1.webp'
