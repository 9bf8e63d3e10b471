"""Folders and tables of images as scikit-learn Bunches, and checks of images."""

from sktransfer.datasets._audit import LabelAudit, audit_labels
from sktransfer.datasets._check import check_images
from sktransfer.datasets._chest_xrays import load_chexpert, load_nih_chestxray14
from sktransfer.datasets._dicom import describe_dicom, dicom_table
from sktransfer.datasets._digits import load_digit_screening
from sktransfer.datasets._loaders import load_image_folder, load_image_table
from sktransfer.datasets._rsna import load_rsna_pneumonia

__all__ = [
    "LabelAudit",
    "audit_labels",
    "check_images",
    "describe_dicom",
    "dicom_table",
    "load_chexpert",
    "load_digit_screening",
    "load_image_folder",
    "load_image_table",
    "load_nih_chestxray14",
    "load_rsna_pneumonia",
]
