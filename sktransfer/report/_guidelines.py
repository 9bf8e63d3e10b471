"""Which items of the reporting guidelines a part serves; it must not know what is in the part.

Numbers are those of CLAIM 2024 (Tejani et al.), TRIPOD+AI (Collins et al., 2024) and STARD-AI
(Sounderajah et al., 2025), the checklists as their authors number them.
"""

from __future__ import annotations

from typing import NamedTuple


class Items(NamedTuple):
    """Item numbers of each guideline, as text; empty where it has none."""

    claim: str = ""
    tripod: str = ""
    stard: str = ""
    other: str = ""

    def __str__(self) -> str:
        named = (
            ("CLAIM 2024", self.claim),
            ("TRIPOD+AI", self.tripod),
            ("STARD-AI", self.stard),
        )
        parts = [
            f"{guideline} item{'s' if ',' in items else ''} {items}"
            for guideline, items in named
            if items
        ]
        return "; ".join([*parts, *([self.other] if self.other else [])])


_STRATOS = "STRATOS (Van Calster et al., 2025)"

SERVES = {
    "partition": Items("19, 20, 35, 36", "12a, 20a, 20b, 21", "24, 25"),
    "model": Items("9, 22, 23, 25", "12c, 12g, 22", "14, 15a, 15b"),
    "roc": Items("28, 29, 37, 38", "12e, 23a", "18, 31", _STRATOS),
    "operating": Items("28, 29, 37, 38", "15, 23a", "15c, 30, 31"),
    "calibration": Items("28, 37", "12e, 23a", other=_STRATOS),
    "distributions": Items("37", "23a", "30", _STRATOS),
    "benefit": Items("28", "12e, 23a", other=_STRATOS),
    "subgroups": Items("36, 37, 38", "14, 23a", "21, 23"),
    "baselines": Items("30", "12e", "33", "Zech et al. (2018): shortcuts"),
    "failures": Items("39", "26", "33"),
    "saliency": Items("31", other="Adebayo et al. (2018): sanity of maps"),
    "card": Items(
        "3, 40, 41", "3b, 26, 27c", "3, 33, 34, 35", "Mitchell et al. (2019): model cards"
    ),
}

# What no program can know, so that nobody takes the report for the whole of a guideline.
LEFT_TO_AUTHORS = (
    "A report of a program serves part of each guideline. Left to the authors are, among others, "
    "where the patients come from and who was left out, how the reference standard was made, "
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
    "Adebayo et al.: Sanity checks for saliency maps. NeurIPS (2018).",
    "Mitchell et al.: Model cards for model reporting. FAT* (2019), arXiv:1810.03993.",
]
