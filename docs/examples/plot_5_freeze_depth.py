"""
How deep to freeze
==================

Training more of a network helps only where there are pictures enough. This example asks
EfficientNet-Lite0, with its ImageNet weights, for the score and the cost of every answer between
"train the head alone" and "train everything", on scikit-learn's scanned digits: is it an eight?
"""

# %%
# 240 pictures of 8 by 8 pixels, enlarged; 10 % of all digits are eights.
from sktransfer import FineTuneClassifier
from sktransfer.datasets import load_digit_screening

digits = load_digit_screening()
X, y = digits.data[:240], digits.target[:240]
clf = FineTuneClassifier(
    "efficientnet_lite0",
    preprocessing="resize",
    image_size=64,
    value_range=digits.value_range,
    class_weight="balanced",
    lr=1e-4,
    max_epochs=4,
    random_state=0,
)

# %%
# What it will cost, before it is run. Each picture goes through the frozen stages once per cut;
# folds and epochs share what comes out.
from sklearn.model_selection import StratifiedKFold

from sktransfer.model_selection import plan_search

cv = StratifiedKFold(3, shuffle=True, random_state=0)
depths = ["all", -1, -2, -4, 0]
plan = plan_search(clf, {"freeze_depth": depths}, X, cv, y=y, refit=False)
print(plan)

# %%
# The curve: mean ROC AUC over the folds with its interval, and the seconds of each depth.
from sktransfer.inspection import FreezeDepthDisplay

display = FreezeDepthDisplay.from_estimator(clf, X, y, depths=depths, cv=cv, scoring="roc_auc")
display.ax_.set_title("Eights among 240 digits")

# %%
# The same as a table.
display.curve.round(3)
