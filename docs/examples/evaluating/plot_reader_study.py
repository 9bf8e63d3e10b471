"""
A reader study
==============

Which of these noisy digits are eights? A frozen network gives scores, a threshold is chosen that
keeps a sensitivity, and the result is shown alongside readers, as in a reader study.

**The readers are simulated**: each sees the truth with noise of its own. No person has read these
images.
"""

# %%
# Noise is added to the images so that the task is not too easy. A part of them is held out.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from sktransfer.datasets import load_digit_screening

task = load_digit_screening(digit=8, positive="eight")
rng = np.random.default_rng(0)
X = np.clip(task.data + rng.normal(scale=3, size=task.data.shape), *task.value_range)
y = task.target
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, test_size=0.4, random_state=0)
figure, axes = plt.subplots(1, 8, figsize=(8, 1.4), layout="constrained")
for ax, image, positive in zip(axes, X_test, y_test, strict=False):
    ax.imshow(image.reshape(8, 8), cmap="gray_r")
    ax.set_title(task.target_names[positive], color="tab:red" if positive else "black")
    ax.set_axis_off()

# %%
# The threshold keeps a sensitivity of 0.9 with confidence 0.95 and is chosen on scores out of
# fold. The probabilities are calibrated first.
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.model_selection import OperatingPointClassifier

features = PretrainedFeatureExtractor(
    "efficientnet_lite0",
    layer="blocks.4",
    preprocessing="resize",
    image_size=48,
    value_range=task.value_range,
)
pipe = make_pipeline(features, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
calibrated = CalibratedClassifierCV(pipe, method="sigmoid", cv=5)
clf = OperatingPointClassifier(calibrated, target_level=0.9, confidence_level=0.95)
clf.fit(X_train, y_train)
print(clf.operating_point_)

# %%
# The twelve simulated readers differ in skill, and in how readily they call an image positive.
readers = {}
for number in range(12):
    skill, boldness = rng.uniform(1.4, 2.4), rng.normal(scale=0.4)
    impression = rng.normal(skill * y_test)
    readers[f"simulated reader {number + 1}"] = (impression + boldness > skill / 2 + 0.3).astype(
        int
    )

# %%
# :class:`~sktransfer.metrics.ReaderStudyDisplay` shows the ROC curve on the held-out images with
# its band, the readers with exact intervals, the average reader, and the operating point, which
# was chosen without these images.
from sktransfer.metrics import ReaderStudyDisplay

figure, ax = plt.subplots(figsize=(6, 6), layout="constrained")
display = ReaderStudyDisplay.from_estimator(
    clf, X_test, y_test, readers=readers, name="network", ax=ax, plot_chance_level=True
)
ax.set_title("Simulated readers and a network")

# %%
# :class:`~sktransfer.metrics.ConfusionPairDisplay` shows the confusion matrix of the network next
# to that of all readers together.
from sktransfer.metrics import ConfusionPairDisplay

names = np.array(["other", "eight"])
pair = ConfusionPairDisplay.from_predictions(
    names[y_test],
    names[clf.predict(X_test)],
    readers={who: names[readings] for who, readings in readers.items()},
    labels=names,
    pool=True,
    name="network",
)
pair.axes_[1].set_title("12 simulated readers")

# %%
# A study should also show the calibration with the uncertainty of every bin, whether acting on the
# probabilities is of use, and the scores of each class:
# :class:`~sktransfer.metrics.CalibrationIntervalDisplay`,
# :class:`~sktransfer.metrics.DecisionCurveDisplay` and
# :class:`~sktransfer.metrics.ScoreDistributionDisplay`.
from sktransfer.metrics import (
    CalibrationIntervalDisplay,
    DecisionCurveDisplay,
    ScoreDistributionDisplay,
)

figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
CalibrationIntervalDisplay.from_estimator(clf, X_test, y_test, n_bins=6, name="network", ax=axes[0])
DecisionCurveDisplay.from_estimator(clf, X_test, y_test, name="network", ax=axes[1])
ScoreDistributionDisplay.from_estimator(clf, X_test, y_test, name="network", ax=axes[2])
plt.show()
