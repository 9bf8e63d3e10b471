"""
How deep to freeze
==================

Training more of a network helps where there are enough images, and always costs more. This example
measures the score and the cost of several freeze depths, from training the head alone to training
everything, for EfficientNet-Lite0 with its ImageNet weights on scikit-learn's scanned digits.
"""

# %%
# There are 250 images of 8 by 8 pixels, which are enlarged, in ten classes.
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
# Before the search runs, the plan says what it needs of the frozen stages: each image goes through
# them once per cut, and folds and epochs share the activations.
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sktransfer.model_selection import plan_search

cv = StratifiedKFold(4, shuffle=True, random_state=0)
depths = ["all", -1, -2, -4, 0]
plan_search(GridSearchCV(clf, {"freeze_depth": depths}, cv=cv), X, y).cuts

# %%
# :class:`~sktransfer.model_selection.FreezeDepthDisplay` shows the mean accuracy over the folds
# with its interval, and the seconds of each depth.
from sktransfer.model_selection import FreezeDepthDisplay

display = FreezeDepthDisplay.from_estimator(clf, X, y, depths=depths, cv=cv, scoring="accuracy")
display.ax_.set_title("250 digits, EfficientNet-Lite0")

# %%
# The same as a table, which :func:`~sktransfer.model_selection.freeze_depth_curve` returns without
# a plot.
display.curve.round(3)
