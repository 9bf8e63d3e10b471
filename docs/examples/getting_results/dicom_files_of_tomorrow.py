"""
DICOM files: train, save, and predict new images
================================================

The X-rays of the past came as a folder of JPEG files with labels; tomorrow's come from the archive
as DICOM. This example trains on the former, saves the model as a file without code, loads it
again, and predicts the latter. It shows what to do about files that cannot be read.

The X-rays are the NIH Clinical Center's (ChestX-ray8, Wang et al., CVPR 2017; see
:ref:`gallery-data`), three of them as DICOM. The folder of DICOM files also has some that are no
X-rays at all.
"""

# %%
# Train and save
# --------------
# ``freeze_depth="all"`` is a frozen network with a linear classifier. ``save`` writes numbers and
# settings only, so that loading the file never runs code.
import os
import tempfile
from pathlib import Path

from sktransfer import FineTuneClassifier
from sktransfer.datasets import load_image_folder

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
xrays = load_image_folder(data / "chest_xray_pneumonia")
clf = FineTuneClassifier(
    "efficientnet_lite0",
    freeze_depth="all",
    preprocessing="resize",
    image_size=160,
    on_error="nan",
    random_state=0,
).fit(xrays.data, xrays.target)
file = Path(tempfile.mkdtemp()) / "pneumonia.safetensors"
clf.save(file)
print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")

# %%
# What is in the folder?
# ----------------------
# :func:`~sktransfer.datasets.dicom_table` reads the headers of all DICOM images, whatever their
# names. Nothing is de-identified: it lists what it is asked for.
import warnings

from sktransfer.datasets import describe_dicom, dicom_table

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of files that are no DICOM images, which it counts
    table = dicom_table(data / "dicom", columns=["Modality", "BodyPartExamined", "height", "width"])
print(table.attrs["skipped"])
table.groupby(["Modality", "BodyPartExamined"], dropna=False).size().rename("files").to_frame()

# %%
# Only chest X-rays may go into a classifier of chest X-rays: it would answer for an ultrasound,
# too.
chest = table[table["Modality"].isin(["DX", "CR"]) & (table["BodyPartExamined"] == "CHEST")]
new = chest[["image"]].reset_index(drop=True)
describe_dicom(new["image"][0])[["bits", "photometric", "window", "inverted"]].to_frame(
    "first file"
)

# %%
# Predict
# -------
# The loaded model reads DICOM files as it reads others. A row that cannot be read becomes NaN with
# ``on_error="nan"``, and is listed in ``failed_rows_``: here a file that was cut off.
import pandas as pd

new.loc[len(new)] = str(data / "dicom" / "MR_truncated.dcm")
loaded = FineTuneClassifier.load(file)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says that one row could not be read
    probability = loaded.predict_proba(new)[:, list(loaded.classes_).index("pneumonia")]
result = pd.DataFrame(
    {"file": [Path(path).name for path in new["image"]], "pneumonia": probability.round(2)}
)
result

# %%
# The three of the NIH, with what the model says of each:
import matplotlib.pyplot as plt
import pydicom

figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.9), layout="constrained")
of_the_nih = result[result["file"].str.startswith("nih")]
for ax, row in zip(axes, of_the_nih.itertuples(), strict=True):
    ax.imshow(pydicom.dcmread(new["image"][row.Index]).pixel_array, cmap="gray")
    ax.set_title(f"{row.file}\npneumonia {row.pneumonia:.2f}", fontsize=9)
    ax.set_axis_off()

# %%
# Do not believe these numbers: none of the NIH's three has pneumonia among its findings. The
# images of the two classes of the training set differ in more than the lungs
# (:ref:`sphx_glr_auto_examples_evaluating_could_it_be_the_scanner.py`), and a file that can be
# predicted is not yet a file like those of the training set.
#
# With ``on_error="raise"``, the default, such a file is an
# :class:`~sktransfer.exceptions.ImageDecodeError`; with "nan" a
# :class:`~sktransfer.exceptions.FailedRowsWarning` counts them.
# :class:`~sktransfer.preprocessing.DicomOptions` chooses another window or frame,
# :class:`~sktransfer.preprocessing.ImageChannels` the channels of other deep images, and
# :func:`~sktransfer.datasets.load_rsna_pneumonia` reads the RSNA's challenge, which is in DICOM.

# sphinx_gallery_thumbnail_path = '_static/gallery/dicom_files_of_tomorrow_1.webp'
