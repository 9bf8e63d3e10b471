"""
Several findings in one image
=============================

An image may show several findings, or none. This example makes images of four handwritten digits:
"zero", "three" and "eight" are the findings, and in some images nobody has looked for eights. Each
finding gets a probability and a threshold of its own.
"""

# %%
# The labels are a table with a column for each finding: 1, 0, or NaN where it is unknown.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

digits = load_digits()
tiles = digits.images[:1796].reshape(449, 2, 2, 8, 8)
X = tiles.transpose(0, 1, 3, 2, 4).reshape(449, 16, 16)
shown = digits.target[:1796].reshape(449, 4)
findings = {"zero": 0, "three": 3, "eight": 8}
y = pd.DataFrame({name: (shown == digit).any(axis=1) for name, digit in findings.items()})
y = y.astype(float)
y.iloc[::10, 2] = np.nan
figure, axes = plt.subplots(1, 6, figsize=(8, 1.9), layout="constrained")
for ax, image, (_, row) in zip(axes, X, y.iterrows(), strict=False):
    ax.imshow(image, cmap="gray_r")
    ax.set_title("\n".join(y.columns[row == 1]) or "no finding", fontsize="small")
    ax.set_axis_off()

# %%
# The split keeps the share of each finding. With ``groups`` it would keep patients together too.
from sktransfer.model_selection import grouped_train_test_split

X_train, X_test, y_train, y_test = grouped_train_test_split(X, y, stratify=y, random_state=0)
pd.DataFrame({"training": y_train.mean(), "test": y_test.mean()}).round(3)

# %%
# A frozen network with a linear head for all findings, and a threshold for each: with a probability
# of 0.9, the sensitivity for that finding is at least 0.8.
from sktransfer import FineTuneClassifier
from sktransfer.model_selection import OperatingPointClassifier

net = FineTuneClassifier(
    "efficientnet_lite0",
    freeze_depth="all",
    preprocessing="resize",
    image_size=64,
    value_range=(0, 16),
    random_state=0,
)
clf = OperatingPointClassifier(net, target_level=0.8, confidence_level=0.9)
clf.fit(X_train, y_train)
dict(zip(clf.classes_, clf.threshold_.round(3), strict=True))

# %%
# Findings are predicted independently of each other: an image may have all of them.
from sktransfer.metrics import MultilabelRocDisplay, multilabel_report

proba = clf.predict_proba(X_test)
report = multilabel_report(y_test, proba, threshold=clf.threshold_)
report[["n", "n_positive", "roc_auc", "roc_auc_low", "roc_auc_high", "sensitivity"]].round(3)

# %%
display = MultilabelRocDisplay.from_estimator(clf, X_test, y_test, plot_chance_level=True)
