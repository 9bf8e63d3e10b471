"""One report from a fitted classifier and its test rows, for readers of a study."""

from sktransfer.report._acceptance import acceptance_report
from sktransfer.report._report import DiagnosticReport, diagnostic_report

__all__ = ["DiagnosticReport", "acceptance_report", "diagnostic_report"]
