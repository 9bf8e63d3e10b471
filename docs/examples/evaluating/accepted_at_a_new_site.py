"""
Is it good enough, and are the labels right?
============================================

A model comes with a score. How far may that score be off, which of the labels behind it are
doubtful, and is the model accepted at a site that has not seen it yet? All three questions are
answered from embeddings that are computed once.

The X-rays are the NIH Clinical Center's (ChestX-ray8, Wang et al., CVPR 2017): 500 labeled
pneumonia and 500 without a finding. :ref:`gallery-data` says where to get them.
"""

# %%
# A score with its interval
# -------------------------
# The *site* is a third of the patients, put aside. On the others, two models are cross-validated on
# the same folds, by patient: all layers of the network, and its embedding alone.
import os
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor
from sktransfer.datasets import audit_labels, load_image_folder
from sktransfer.metrics import ForestDisplay
from sktransfer.model_selection import (
    OperatingPointClassifier,
    acceptance_test,
    cross_val_difference,
    cross_val_interval,
    grouped_train_test_split,
)

xrays = load_image_folder(Path(os.environ["SKTRANSFER_EXAMPLE_DATA"]) / "chest_xray_pneumonia")
X, X_site, y, y_site, patients, patients_site = grouped_train_test_split(
    xrays.data,
    xrays.target,
    xrays.groups,
    groups=xrays.groups,
    stratify=xrays.target,
    test_size=0.33,
    random_state=0,
)


def probe(layer):
    network = PretrainedFeatureExtractor(
        "efficientnet_lite0", layer=layer, preprocessing="resize", image_size=160
    )
    return make_pipeline(network, StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))


intervals = {
    name: cross_val_interval(probe(layer), X, y, groups=patients)
    for name, layer in (("all layers", "all"), ("embedding", None))
}
ForestDisplay.from_intervals(intervals)
print(cross_val_difference(probe("all"), probe(None), X, y, groups=patients))
plt.show()

# %%
# Labels that look wrong
# ----------------------
# These labels were mined from reports by a program. Each is judged by models that have seen
# neither the X-ray nor others of its patient. What is ranked first is for a radiologist to look at:
# an X-ray that the network does not understand is suspicious too.
audit = audit_labels(X, y, patients, near_duplicates=False)
print(audit)
audit.plot(6)
plt.show()

# %%
# Accepted here?
# --------------
# The requirement is written down before the site's images are scored: a sensitivity of 0.8 and a
# specificity of 0.6. *Accepted* means that the whole interval is above it, *rejected* that it is
# below, and *inconclusive* that the site has too few patients to tell.
model = OperatingPointClassifier(probe("all"), target_level=0.85, pos_label="pneumonia")
model.fit(X, y, groups=patients)
verdict = acceptance_test(
    model,
    X_site,
    y_site,
    groups=patients_site,
    required={"sensitivity": 0.8, "specificity": 0.6},
)
print(verdict)

# sphinx_gallery_thumbnail_path = '_static/gallery/accepted_at_a_new_site_1.webp'
