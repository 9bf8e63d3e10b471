"""
Predict numbers, with intervals, and grades
===========================================

How much ink is in a digit? The answer is a number, and can be computed, so that a prediction can be
checked. This example predicts it from the images, says how sure the prediction is, and then grades
the digits as a reader would: thin, medium or bold, with some disagreement.
"""

# %%
# The images are scikit-learn's scanned digits; the ink is measured with a small error.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

X, _ = load_digits(return_X_y=True)
X = X[:900]
rng = np.random.default_rng(0)
ink = X.mean(axis=1) + rng.normal(0, 0.1, len(X))
train, calibrate, test = np.split(np.arange(len(X)), [300, 600])

# %%
# Frozen, a :class:`~sktransfer.FineTuneRegressor` is a ridge regression on all layers of the
# network, which chooses its penalty by itself.
from sktransfer import FineTuneRegressor

network = {
    "backbone": "efficientnet_lite0",
    "image_size": 64,
    "value_range": (0, 16),
    "freeze_depth": "all",
    "random_state": 0,
}
reg = FineTuneRegressor(**network).fit(X[train], ink[train])
predicted = reg.predict(X[test])
error = np.abs(predicted - ink[test]).mean()
baseline = np.abs(ink[train].mean() - ink[test]).mean()
print(f"mean absolute error {error:.2f}, and {baseline:.2f} of predicting the mean")

# %%
# The errors on rows that were not trained on make an interval: nine of ten of them are smaller than
# its half. MAPIE does the same for many kinds of scores; see :ref:`conformal-intervals`.
errors = np.abs(reg.predict(X[calibrate]) - ink[calibrate])
rank = int(np.ceil(0.9 * (len(errors) + 1)))
half = np.sort(errors)[rank - 1]
inside = (np.abs(predicted - ink[test]) <= half).mean()
print(f"interval: prediction ± {half:.2f}, which contains {inside:.0%} of the test digits")

figure, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
ax.errorbar(ink[test], predicted, yerr=half, fmt=".", color="#1f6fb2", elinewidth=0.4, ms=4)
ax.axline((5, 5), slope=1, color="0.5", linewidth=1)
ax.set(xlabel="ink", ylabel="predicted ink, with interval")

# %%
# Grades have an order, which an ordered ``Categorical`` says. A cumulative link has one score for
# each digit, and thresholds between the grades.
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from sktransfer import FineTuneClassifier

names = ["thin", "medium", "bold"]
read = ink + rng.normal(0, 0.2, len(ink))
codes = np.digitize(read, np.quantile(read, [0.33, 0.67]))
grade = pd.Categorical.from_codes(codes, names, ordered=True)
for loss in ("cumulative_link", "cross_entropy"):
    clf = FineTuneClassifier(**network, loss=loss).fit(X[train], grade[train])
    kappa = cohen_kappa_score(
        np.asarray(grade[test]), clf.predict(X[test]), labels=names, weights="quadratic"
    )
    print(f"{loss}: quadratic kappa {kappa:.3f}")
