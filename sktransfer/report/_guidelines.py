"""What reporting guidelines ask for: the items each section serves, and the model card.

Numbers are those of CLAIM 2024 (Tejani et al.), TRIPOD+AI (Collins et al., 2024) and STARD-AI
(Sounderajah et al., 2025), the checklists as their authors number them.
"""

from __future__ import annotations

from collections.abc import Mapping

from sktransfer.report._section import Section

_STRATOS = "STRATOS (Van Calster et al., 2025)"


def _items(claim: str, tripod: str = "", stard: str = "", other: str = "") -> str:
    """Write the item numbers of each guideline."""
    named = (("CLAIM 2024", claim), ("TRIPOD+AI", tripod), ("STARD-AI", stard))
    parts = [f"{name} item{'s' * (',' in items)} {items}" for name, items in named if items]
    return "; ".join([*parts, other] if other else parts)


SERVES = {
    "partition": _items("19, 20, 35, 36", "12a, 20a, 20b, 21", "24, 25"),
    "model": _items("9, 22, 23, 25", "12c, 12g, 22", "14, 15a, 15b"),
    "roc": _items("28, 29, 37, 38", "12e, 23a", "18, 31", _STRATOS),
    "operating": _items("28, 29, 37, 38", "15, 23a", "15c, 30, 31"),
    "triage": _items("28, 37, 38", "15, 23a", "15c, 30, 31"),
    "novelty": _items("35, 39", "20c"),
    "calibration": _items("28, 37", "12e, 23a", other=_STRATOS),
    "distributions": _items("37", "23a", "30", _STRATOS),
    "benefit": _items("28", "12e, 23a", other=_STRATOS),
    "subgroups": _items("36, 37, 38", "14, 23a", "21, 23"),
    "baselines": _items("30", "12e", "33", "Zech et al. (2018): shortcuts"),
    "labels": "Northcutt et al. (2021): confident learning",
    "failures": _items("39", "26", "33"),
    "saliency": _items("31", other="Adebayo et al. (2018): sanity of maps"),
    "card": _items(
        "3, 40, 41", "3b, 26, 27c", "3, 33, 34, 35", "Mitchell et al. (2019): model cards"
    ),
}

# What no program can know, so that nobody takes the report for the whole of a guideline.
LEFT_TO_AUTHORS = (
    "A computed report serves part of each guideline. Its authors must add, among others, where "
    "the patients come from and who was excluded, how the reference standard was established, "
    "ethics, registration, protocol and funding."
)

REFERENCES = [
    "Tejani et al.: Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 update. "
    "Radiology: Artificial Intelligence 6(4) (2024) e240300.",
    "Collins et al.: TRIPOD+AI statement: updated guidance for reporting clinical prediction "
    "models that use regression or machine learning methods. BMJ 385 (2024) e078378.",
    "Sounderajah et al.: The STARD-AI reporting guideline for diagnostic accuracy studies using "
    "artificial intelligence. Nature Medicine 31 (2025) 3283-3289.",
    "Van Calster et al.: Evaluation of performance measures in predictive artificial intelligence "
    "models to support medical decisions. The Lancet Digital Health (2025), arXiv:2412.10288.",
    "Zech et al.: Variable generalization performance of a deep learning model to detect pneumonia "
    "in chest radiographs. PLoS Medicine 15 (2018).",
    "Northcutt, Jiang, Chuang: Confident learning: estimating uncertainty in dataset labels. "
    "Journal of Artificial Intelligence Research 70 (2021).",
    "Adebayo et al.: Sanity checks for saliency maps. NeurIPS (2018).",
    "Mitchell et al.: Model cards for model reporting. FAT* (2019), arXiv:1810.03993.",
]

# Headings of Mitchell et al. (2019), what belongs under each, and the title of the section that
# answers it where one does.
_HEADINGS = {
    "model_details": ("Model details", "who made it, when, its license, whom to ask", "Model"),
    "intended_use": ("Intended use", "by whom, for which patients, at which step of care", None),
    "out_of_scope": ("Out of scope", "uses that are not intended", None),
    "factors": ("Factors", "groups, devices and conditions that matter", "Subgroups"),
    "metrics": ("Metrics", "why these measures and this threshold", "Operating point"),
    "evaluation_data": ("Evaluation data", "where the test images come from", "Data"),
    "training_data": ("Training data", "where the training images come from", "Data"),
    "quantitative_analyses": ("Quantitative analyses", "results", "Discrimination"),
    "ethical_considerations": ("Ethical considerations", "risks, harms, consent, fairness", None),
    "caveats": ("Caveats and recommendations", "what was not tested", None),
}
_RESEARCH_ONLY = (
    "Research use only. Neither the model nor this report is a medical device; nothing here makes "
    "the model fit for clinical use."
)


def card_section(given: Mapping[str, str] | None) -> Section:
    """Write the headings of a model card, what was given for each, and what is missing."""
    given = dict(given or {})
    unknown = sorted(set(given) - set(_HEADINGS))
    if unknown:
        raise ValueError(f"card has no heading {unknown[0]!r}; it may have {', '.join(_HEADINGS)}.")
    section = Section("card", "Model card")
    section.warn(_RESEARCH_ONLY)
    lines = []
    for key, (title, what, part) in _HEADINGS.items():
        text = str(given.get(key, "")).strip()
        if not text:
            text = f"See “{part}” above." if part else f"Not stated ({what})."
        lines.append([title, text])
    section.add_table("Headings of Mitchell et al. (2019)", ["Heading", "Text"], lines)
    missing = [key for key, (_, _, part) in _HEADINGS.items() if key not in given and not part]
    section.data = {"stated": given, "missing": missing, "use": _RESEARCH_ONLY}
    return section
