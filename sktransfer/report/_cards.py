"""Model cards in the forms of others: Hugging Face's README.md and CHAI's applied model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree as ET

from sktransfer._version import __version__
from sktransfer.metrics._labels import Interval

_NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
_NOT_STATED = "Not stated."
# Elements of the applied model card, in its order: text, or elements inside. A text begins with
# "=" where the report knows it, and with "card:" where a heading of the report's card answers it.
_FIELDS: dict[str, Any] = {
    "BasicInfo": {"ModelName": "=title", "ModelDeveloper": "", "DeveloperContact": ""},
    "ReleaseInfo": {
        "ReleaseStage": "Research use only; not a medical device.",
        "ReleaseDate": "",
        "ReleaseVersion": "=version",
        "GlobalAvailability": "",
    },
    "ModelSummary": {"Summary": "=summary", "Keywords": {}},
    "UsesAndDirections": {
        "IntendedUseAndWorkflow": "card:intended_use",
        "PrimaryIntendedUsers": "",
        "HowToUse": "=how",
        "TargetedPatientPopulation": "card:evaluation_data",
        "CautionedOutOfScopeSettings": "card:out_of_scope",
    },
    "Warnings": {
        "KnownRisksAndLimitations": "=limits",
        "KnownBiasesOrEthicalConsiderations": "card:ethical_considerations",
        "ClinicalRiskLevel": "",
    },
    "TrustIngredients": {
        "AISystemFacts": {
            "OutcomesAndOutputs": "=outputs",
            "ModelType": "=steps",
            "FoundationModels": "=networks",
            "InputDataSource": "card:training_data",
            "OutputAndInputDataTypes": "Input: an image or a DICOM file. Output: a probability for "
            "each class, and a class.",
            "DevelopmentDataCharacterization": "=training",
            "BiasMitigationApproaches": "",
            "OngoingMaintenance": "",
        },
        "TransparencyInformation": {"FundingSource": "", "StakeholdersConsulted": ""},
    },
    "KeyMetrics": {
        "UsefulnessUsabilityEfficacy": {
            "MetricGoal": "Tell the classes apart on images that the model has not seen.",
            "Results": "usefulness",
        },
        "FairnessEquity": {
            "MetricGoal": "Be as good in every subgroup as overall.",
            "Results": "fairness",
        },
        "SafetyReliability": {
            "MetricGoal": "Give probabilities that are as often right as they say.",
            "Results": "safety",
        },
    },
    "Resources": {"PeerReviewedPublications": "", "PatientConsentOrDisclosure": ""},
    "Bibliography": "",
}
# What follows the results of each metric.
_OF_A_METRIC = {
    "Interpretation": "=summary",
    "TestType": "Retrospective, on images that were held out.",
    "TestingDataDescription": "=testing",
    "ValidationProcessAndJustification": "=validation",
}


def hugging_face_metadata(report: Any) -> str:
    """Return the block of metadata that begins a card on the Hugging Face Hub."""
    metrics = [
        {"type": kind, "name": label, "value": round(float(value.estimate), 4)}
        for kind, label, value in _measured(report)
        if value.estimate is not None
    ]
    name = "".join(letter if letter.isalnum() else "-" for letter in report.title)
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": "held-out", "name": "Images that the model has not seen"},
        "metrics": metrics,
    }
    fields = {
        "library_name": "sktransfer",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "transfer-learning", "scikit-learn", "research-use-only"],
        "model-index": [{"name": name, "results": [result]}],
    }
    # YAML has JSON inside.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])


def applied_model_card(report: Any, fields: Mapping[str, str] | None) -> str:
    """Return the applied model card of a report as XML; ``fields`` are texts by element."""
    given = dict(fields or {})
    known = {name for name, value in _leaves(_FIELDS) if value is not None} - {"Results"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(
            f"An applied model card has no field {unknown[0]!r}; it has {', '.join(sorted(known))}."
        )
    texts = _texts(report)
    root = ET.Element("AppliedModelCard", xmlns=_NAMESPACE)
    _fill(root, _FIELDS, given, texts, report)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _leaves(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the elements that are text."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield name, value


def _fill(
    parent: ET.Element,
    fields: Mapping[str, Any],
    given: Mapping[str, str],
    texts: Mapping[str, str],
    report: Any,
) -> None:
    """Add elements to a parent."""
    for name, value in fields.items():
        element = ET.SubElement(parent, name)
        if isinstance(value, dict):
            _fill(element, value, given, texts, report)
        elif name == "Results":
            for label, number in _results(report, value):
                result = ET.SubElement(element, "MetricResult")
                ET.SubElement(result, "Label").text = _sound(label)
                ET.SubElement(result, "ValueJson").text = json.dumps(number)
            _fill(parent, _OF_A_METRIC, {}, texts, report)
        else:
            text = given.get(name) or texts.get(value, "" if value[:1] == "=" else value)
            empty = not text or text.startswith("card:")
            element.text = _NOT_STATED if empty else _sound(text)


def _sound(text: str) -> str:
    """Return text without what XML cannot hold."""
    return "".join(each for each in str(text) if each in "\t\n" or each.isprintable())


def _texts(report: Any) -> dict[str, str]:
    """Return what the report knows, by the name that fields have for it."""
    model = report.sections["model"].data
    parts = report.sections["partition"].data["parts"]
    digests = [f"{name} ({digest})" for name, digest in model["digests"].items()]
    networks = [name for name in digests if name.startswith("Pretrained")]
    known = {
        "=title": report.title,
        "=version": "; ".join(digests) or f"sktransfer {__version__}",
        "=summary": report.summary,
        "=how": "python -m sktransfer predict MODEL IMAGES, or predict_proba in Python.",
        "=limits": " ".join(
            ["Research use only.", *report.warnings, report.sections["card"].data["use"]]
        ),
        "=outputs": " ".join(report.sections["operating"].text),
        "=steps": ", ".join(step["name"] for step in model["steps"]),
        "=networks": "; ".join(networks) or "None.",
        "=training": _counted(parts.get("training")),
        "=testing": _counted(parts.get("test")),
        "=validation": " ".join(report.sections["roc"].text),
    }
    stated = report.sections["card"].data["stated"]
    return {**known, **{f"card:{heading}": text for heading, text in stated.items()}}


def _counted(part: Mapping[str, Any] | None) -> str:
    """Return how many images and patients of each class a part has."""
    if part is None:
        return ""
    patients = "" if part["patients"] is None else f" of {part['patients']} patients"
    classes = ", ".join(f"{name}: {each['images']}" for name, each in part["classes"].items())
    return f"{part['images']} images{patients} ({classes})."


def _measured(report: Any) -> Iterator[tuple[str, str, Interval]]:
    """Yield the main measures: type, name, and value with its interval."""
    yield "roc_auc", "ROC AUC", report.sections["roc"].data["roc_auc"]
    operating = report.sections["operating"].data
    yield "accuracy", "Accuracy", operating["accuracy"]
    rates = operating.get("mean")  # over several labels a row
    if rates is None:
        rates = vars(next(iter(operating["points"].values())))
    yield "recall", "Sensitivity", rates["sensitivity"]
    yield "specificity", "Specificity", rates["specificity"]


def _results(report: Any, which: str) -> list[tuple[str, dict[str, Any]]]:
    """Return labels and values of one kind of metrics; at least one."""
    level = next(iter(report.sections["operating"].data["points"].values())).confidence_level
    found: list[tuple[str, dict[str, Any]]] = []
    if which == "usefulness":
        found = [(label, _estimate(value, level)) for _, label, value in _measured(report)]
    elif which == "fairness":
        for column, levels in report.sections["subgroups"].data["subgroups"].items():
            for name, own in levels.items():
                if own["roc_auc"] is not None:
                    found.append((f"ROC AUC, {column}: {name}", _estimate(own["roc_auc"], level)))
    else:
        data = report.sections["calibration"].data
        if "slope" in data:
            found.append(("Calibration slope (goal: 1)", _estimate(data["slope"], level)))
            found.append(("Brier score", {"kind": "single", "value": data["brier"]}))
    return found or [("Not measured", {"kind": "single", "value": "not measured"})]


def _estimate(value: Interval, level: float) -> dict[str, Any]:
    return {
        "kind": "estimate_ci",
        "estimate": round(float(value.estimate), 4),
        "lower": round(float(value.low), 4),
        "upper": round(float(value.high), 4),
        "level": round(100 * level, 3),
        "unit": "",
    }
