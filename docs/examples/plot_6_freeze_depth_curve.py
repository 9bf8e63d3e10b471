"""
How deep to freeze
==================

Training more of a network helps where there are images enough, and costs more in any case. This
example asks EfficientNet-Lite0, with its ImageNet weights, for the score and the cost of several
answers between "train the head alone" and "train everything", on scikit-learn's scanned digits.
"""

# %%
# 250 images of 8 by 8 pixels, enlarged; ten classes.
from sklearn.datasets import load_digits

from sktransfer import FineTuneClassifier

X, y = load_digits(return_X_y=True)
X, y = X[:250], y[:250]
clf = FineTuneClassifier(
    "efficientnet_lite0",
    preprocessing="resize",
    image_size=48,
    value_range=(0, 16),
    lr=1e-4,
    max_epochs=3,
    random_state=0,
)

# %%
# What the search needs of the frozen stages, before it is run: each image goes through them once
# per cut, and folds and epochs share what comes out.
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sktransfer.model_selection import plan_search

cv = StratifiedKFold(4, shuffle=True, random_state=0)
depths = ["all", -1, -2, -4, 0]
plan_search(GridSearchCV(clf, {"freeze_depth": depths}, cv=cv), X, y).cuts

# %%
# The curve: mean accuracy over the folds with its interval, and the seconds of each depth.
from sktransfer.model_selection import FreezeDepthDisplay

display = FreezeDepthDisplay.from_estimator(clf, X, y, depths=depths, cv=cv, scoring="accuracy")
display.ax_.set_title("250 digits, EfficientNet-Lite0")

# %%
# The same as a table.
display.curve.round(3)
