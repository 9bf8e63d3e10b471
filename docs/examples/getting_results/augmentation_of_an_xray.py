"""
Augmentation, argument by argument, on a chest X-ray
====================================================

Which random changes leave an X-ray an X-ray? Every argument of
:class:`~sktransfer.preprocessing.ImageAugmentation` has the name that Keras gave it. This example
draws each of them alone on a DICOM file, then together, and says which belong to chest X-rays.

The X-ray is the NIH Clinical Center's (ChestX-ray8, Wang et al., CVPR 2017; see
:ref:`gallery-data`).
"""

# %%
# An augmentation is called with an image and a seed; equal seeds give equal pixels. pydicom reads
# the file here, since this example needs the pixels; estimators take the path of a DICOM file as
# it is.
import os
from pathlib import Path

import pydicom
from PIL import Image

data = Path(os.environ["SKTRANSFER_EXAMPLE_DATA"])
pixels = pydicom.dcmread(data / "dicom" / "nih_chest_test1.dcm").pixel_array
xray = Image.fromarray(pixels).resize((224, 224))

# %%
# Where pixels are moved
# ----------------------
# Angles are degrees, shifts are fractions of the side, and what comes into view from outside is
# filled with black. Keras' default, ``fill_mode="nearest"``, draws the pixels of the edge out into
# stripes.
import matplotlib.pyplot as plt

from sktransfer.preprocessing import ImageAugmentation


def draw(arguments, n_draws=5):
    """Draw some views of the X-ray for each set of arguments."""
    rows = len(arguments)
    figure, axes = plt.subplots(rows, n_draws, figsize=(6.4, 1.49 * rows), squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1 - 0.16 / rows, wspace=0.02, hspace=0.18)
    for row, (title, params) in zip(axes, arguments.items(), strict=True):
        augmentation = ImageAugmentation(**params)
        for seed, ax in enumerate(row):
            ax.imshow(augmentation(xray, seed), cmap="gray", vmin=0, vmax=255)
            ax.set_axis_off()
        row[0].set_title(title, loc="left", fontsize=9, family="monospace")
    return figure


black = {"fill_mode": "constant", "cval": 0}
draw(
    {
        "rotation_range=15": {"rotation_range": 15, **black},
        "width_shift_range=0.15, height_shift_range=0.1": {
            "width_shift_range": 0.15,
            "height_shift_range": 0.1,
            **black,
        },
        "shear_range=15": {"shear_range": 15, **black},
        "zoom_range=0.2": {"zoom_range": 0.2, **black},
        "crop_scale=(0.5, 1)": {"crop_scale": (0.5, 1)},
        'rotation_range=15, fill_mode="nearest"': {"rotation_range": 15},
    }
)

# %%
# A patient is never rotated by 90 degrees, but stands a little askew, nearer or farther: small
# rotations, shifts and zoom are what happens at the machine anyway. Shear does not happen there.
#
# Where gray levels change
# ------------------------
draw(
    {
        "brightness_range=(0.7, 1.3)": {"brightness_range": (0.7, 1.3)},
        "channel_shift_range=40": {"channel_shift_range": 40},
        "trivial_augment=True": {"trivial_augment": True},
    }
)

# %%
# Exposure differs from machine to machine, so a change of brightness makes a classifier depend on
# it less. TrivialAugment, which is good for photographs, now and then solarizes or posterizes, and
# no machine makes such X-rays.
#
# Where left and right are exchanged
# ----------------------------------
draw(
    {
        "horizontal_flip=True": {"horizontal_flip": True},
        "vertical_flip=True": {"vertical_flip": True},
    }
)

# %%
# A mirrored chest has its heart on the right, and the letter "L" is mirrored too. That may be
# harmless where the finding has no side, and is wrong where it has one. Nobody is X-rayed upside
# down.
#
# A preset
# --------
# The preset ``"medical"`` has the operations that remain, and
# :class:`~sktransfer.inspection.AugmentationDisplay` draws any augmentation in one line. Pass it
# to an estimator: ``FineTuneClassifier(augmentation="medical")``.
from sktransfer.inspection import AugmentationDisplay

display = AugmentationDisplay.from_augmentation("medical", [xray])
display.figure_.suptitle("The X-ray, and eight draws of the preset 'medical'")
print({k: v for k, v in ImageAugmentation.preset("medical").get_params().items() if v})

# %%
# Whitening, which Keras has in the same place, is no augmentation:
# :class:`~sktransfer.preprocessing.ImageWhitening` is a step of a pipeline, for models without
# pretraining.

# sphinx_gallery_thumbnail_path = '_static/gallery/augmentation_of_an_xray_1.webp'
