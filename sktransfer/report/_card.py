"""The model card: what nobody but its maker can say; it must not know how anything is computed."""

from __future__ import annotations

from collections.abc import Mapping

from sktransfer.report._document import Section, Table

# Headings of Mitchell et al. (2019), what belongs under each, and the part of the report that
# answers it where one does.
_HEADINGS = {
    "model_details": ("Model details", "who made it, when, its license, whom to ask", "model"),
    "intended_use": ("Intended use", "by whom, for which patients, at which step of care", None),
    "out_of_scope": ("Out of scope", "uses that are not intended", None),
    "factors": ("Factors", "groups, devices and conditions that matter", "subgroups"),
    "metrics": ("Metrics", "why these measures and this threshold", "operating"),
    "evaluation_data": ("Evaluation data", "where the test images come from", "partition"),
    "training_data": ("Training data", "where the training images come from", "partition"),
    "quantitative_analyses": ("Quantitative analyses", "results", "roc"),
    "ethical_considerations": ("Ethical considerations", "risks, harms, consent, fairness", None),
    "caveats": ("Caveats and recommendations", "what was not tested", None),
}

_ALWAYS = (
    "Research use only. Neither the model nor this report is a medical device; nothing here makes "
    "the model fit for clinical use."
)


def card(given: Mapping[str, str] | None) -> Section:
    """The headings of a model card, what was given for each, and what is missing.

    Raises
    ------
    ValueError
        If ``given`` has a heading that a model card does not.
    """
    given = dict(given or {})
    unknown = sorted(set(given) - set(_HEADINGS))
    if unknown:
        raise ValueError(f"card has no heading {unknown[0]!r}; it may have {', '.join(_HEADINGS)}.")
    section = Section("card", "Model card")
    section.warn(_ALWAYS)
    lines = []
    for key, (title, what, part) in _HEADINGS.items():
        text = str(given[key]).strip() if key in given else ""
        if not text:
            text = f"See “{_PARTS[part]}” above." if part else f"Not stated ({what})."
        lines.append([title, text])
    section.tables.append(Table("Headings of Mitchell et al. (2019)", ["Heading", "Text"], lines))
    section.data = {
        "stated": given,
        "missing": [
            key for key, (_, _, part) in _HEADINGS.items() if key not in given and not part
        ],
        "use": _ALWAYS,
    }
    return section


_PARTS = {
    "model": "Model",
    "subgroups": "Subgroups",
    "operating": "Operating point",
    "partition": "Data",
    "roc": "Discrimination",
}
