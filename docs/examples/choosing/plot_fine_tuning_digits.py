"""
Fine-tuning a network on scanned digits
=======================================

A frozen network with a logistic regression is where to begin. This example asks what training the
last stage too is worth: EfficientNet-Lite0 with its ImageNet weights, on scikit-learn's scanned
digits, one digit against the rest.
"""

# %%
# The images have 8 by 8 pixels and are enlarged; 10 % are positive. A third is the test set.
from sklearn.model_selection import train_test_split

from sktransfer.datasets import load_digit_screening

digits = load_digit_screening(positive="eight")
X, X_test, y, y_test = train_test_split(
    digits.data, digits.target, stratify=digits.target, test_size=1 / 3, random_state=0
)
X, y = X[:500], y[:500]

# %%
# In the probe all stages are frozen and the head is solved exactly. It costs one pass over the
# images and a logistic regression.
from sklearn.metrics import roc_auc_score

from sktransfer import FineTuneClassifier

settings = {
    "preprocessing": "resize",
    "image_size": 64,
    "value_range": digits.value_range,
    "class_weight": "balanced",
    "random_state": 0,
}
probe = FineTuneClassifier("efficientnet_lite0", freeze_depth="all", **settings).fit(X, y)
print(f"probe: {roc_auc_score(y_test, probe.decision_function(X_test)):.4f}")

# %%
# Now the last two stages are trained too. The stages before them run once and their output is
# cached, so an epoch is cheap. A quarter of the rows is held out to choose the epoch.
tuned = FineTuneClassifier(
    "efficientnet_lite0",
    freeze_depth=-2,
    lr=1e-4,
    max_epochs=8,
    validation_fraction=0.25,
    **settings,
).fit(X, y)
print(f"fine-tuned: {roc_auc_score(y_test, tuned.decision_function(X_test)):.4f}")

# %%
# The history is skorch's, and :class:`~sktransfer.inspection.HistoryDisplay` draws it in one line.
# The learning rate was guessed; :class:`~sktransfer.inspection.LearningRateDisplay` helps to find
# one.
import matplotlib.pyplot as plt

history = tuned.history_
fig, ax = plt.subplots(figsize=(6, 4))
epochs = range(1, len(history) + 1)
ax.plot(epochs, history[:, "train_loss"], marker="o", label="training rows")
ax.plot(epochs, history[:, "valid_loss"], marker="o", label="held-out rows")
ax.axvline(tuned.best_epoch_, color="gray", linestyle="--", label="epoch kept")
ax.set(xlabel="epoch", ylabel="loss", title="EfficientNet-Lite0, last two stages")
ax.legend()
plt.show()
