"""
Several networks, and one answer
================================

Which network, at which resolution, which of its layers, and how sure is it? This example gives
several networks to :class:`~sktransfer.TransferClassifier`, which judges each on images that it
has not seen, and averages the good ones. What it says of itself is then compared with images that
took no part.
"""

# %%
# The images are scikit-learn's scanned digits, of 8 x 8 pixels, in ten classes: 300 to learn from,
# and 700 others.
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

X, X_test, y, y_test = train_test_split(
    *load_digits(return_X_y=True), train_size=300, test_size=700, random_state=0
)

# %%
# ``TransferClassifier()`` takes every network whose weights are on this machine. Here it is given
# EfficientNet-Lite0 at two resolutions, and a network that was never trained: what is no better
# than that has no use for the pretraining. Parameters of the classifier are those of all networks.
from sktransfer import PretrainedFeatureExtractor, TransferClassifier

clf = TransferClassifier(
    {
        "Lite0, 48 px": PretrainedFeatureExtractor("efficientnet_lite0", image_size=48),
        "Lite0, 96 px": PretrainedFeatureExtractor("efficientnet_lite0", image_size=96),
        "random ResNet-18": PretrainedFeatureExtractor("resnet18", weights=None, image_size=48),
    },
    preprocessing="resize",
    value_range=(0, 16),
    random_state=0,
).fit(X, y)
board = clf.leaderboard_
board.drop(columns="seconds").round(3)

# %%
# The first row is the average, and an estimate for new images: its members were chosen again
# without the images that judge it. ``member`` says which candidates are averaged. The others
# compete for the best place, which makes the best of them look a little better than it is.
import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
colors = ["tab:red" if member else "tab:gray" for member in board["member"]]
ax.hlines(board["candidate"], board["low"], board["high"], colors=colors)
ax.scatter(board["score"], board["candidate"], c=colors)
ax.invert_yaxis()
ax.set(xlabel=f"{clf.scoring_}, with 95 % interval; red: averaged", title="300 digits")

# %%
# On images as small as these a network that was never trained is as good as the others. But it errs
# on other digits, which is what an average needs. Does that hold on the images that took no part?
# Log loss judges the probabilities: a classifier that is wrong has to be unsure.
from sklearn.metrics import accuracy_score, log_loss

for name, model in (("all together", clf), ("the best alone", clf.best_estimator_)):
    y_proba = model.predict_proba(X_test)
    accuracy = accuracy_score(y_test, clf.classes_[y_proba.argmax(axis=1)])
    print(f"{name:16} accuracy {accuracy:.3f}, log loss {log_loss(y_test, y_proba):.3f}")

# %%
# ``best_estimator_``, the best single candidate, is an ordinary pipeline, and one pass instead of
# three. :ref:`front-door` says how the classifier chooses, and what ``time_budget=`` buys. Which
# networks are worth their time is also what :func:`~sktransfer.model_selection.rank_backbones`
# says, without a classifier: :ref:`sphx_glr_auto_examples_choosing_choose_a_network.py`.
