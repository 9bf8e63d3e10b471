"""One report from a fitted classifier and its test rows, for readers of a study."""

from sktransfer.report._document import Figure, Notice, Section, Table
from sktransfer.report._report import DiagnosticReport, diagnostic_report

__all__ = ["DiagnosticReport", "Figure", "Notice", "Section", "Table", "diagnostic_report"]
