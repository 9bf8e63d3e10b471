"""From a report to text, by templates; it must not know what is in the parts."""

from __future__ import annotations

from typing import Any

from sktransfer._utils.config import import_optional
from sktransfer._version import __version__
from sktransfer.report._figures import INK, PAPER
from sktransfer.report._guidelines import LEFT_TO_AUTHORS, REFERENCES, SERVES


def render(report: Any, template: str) -> str:
    """Fill a template of this package with a report.

    Parameters
    ----------
    report : DiagnosticReport
    template : str
        ``"report.html.j2"``, where everything is escaped, or ``"report.md.j2"``.
    """
    jinja2 = import_optional("jinja2", extra="report", purpose="Writing a report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sktransfer.report"),
        autoescape=lambda name: name is not None and ".html." in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(
        report=report,
        sections=list(report.sections.values()),
        serves=SERVES,
        left_to_authors=LEFT_TO_AUTHORS,
        references=REFERENCES,
        version=__version__,
        paper=PAPER,
        ink=INK,
    )


def _cell(text: str) -> str:
    """Text for Markdown, where nothing of it is markup and a line is a line."""
    flat = " ".join(str(text).split())
    for mark in ("\\", "|", "*", "_", "`", "<", ">", "[", "]", "#"):
        flat = flat.replace(mark, f"\\{mark}")
    return flat
