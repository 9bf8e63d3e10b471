"""Models out of the notebook: files for other programs, and records of what they predicted."""

from sktransfer.deploy._dicom import dicom_report, dicom_saliency
from sktransfer.deploy._log import prediction_log

__all__ = ["dicom_report", "dicom_saliency", "prediction_log"]
