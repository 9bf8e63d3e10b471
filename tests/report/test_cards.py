"""Model cards in the forms of others."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from sktransfer.report import diagnostic_report

NAMESPACE = "{https://mc.chai.org/v0.2/schema.xsd}"
# The elements of schema v0.2 that it does not call optional, in its order.
REQUIRED = [
    "BasicInfo/ModelName",
    "BasicInfo/ModelDeveloper",
    "BasicInfo/DeveloperContact",
    "ReleaseInfo/ReleaseStage",
    "ReleaseInfo/ReleaseDate",
    "ReleaseInfo/ReleaseVersion",
    "ReleaseInfo/GlobalAvailability",
    "ModelSummary/Summary",
    "ModelSummary/Keywords",
    "UsesAndDirections/IntendedUseAndWorkflow",
    "UsesAndDirections/PrimaryIntendedUsers",
    "UsesAndDirections/HowToUse",
    "UsesAndDirections/TargetedPatientPopulation",
    "UsesAndDirections/CautionedOutOfScopeSettings",
    "Warnings/KnownRisksAndLimitations",
    "Warnings/KnownBiasesOrEthicalConsiderations",
    "Warnings/ClinicalRiskLevel",
    "TrustIngredients/AISystemFacts/OutcomesAndOutputs",
    "TrustIngredients/AISystemFacts/ModelType",
    "TrustIngredients/AISystemFacts/InputDataSource",
    "TrustIngredients/AISystemFacts/OutputAndInputDataTypes",
    "TrustIngredients/AISystemFacts/DevelopmentDataCharacterization",
    "TrustIngredients/AISystemFacts/BiasMitigationApproaches",
    "TrustIngredients/AISystemFacts/OngoingMaintenance",
    "TrustIngredients/TransparencyInformation/FundingSource",
    "TrustIngredients/TransparencyInformation/StakeholdersConsulted",
    "KeyMetrics/UsefulnessUsabilityEfficacy",
    "KeyMetrics/FairnessEquity",
    "KeyMetrics/SafetyReliability",
    "Resources/PeerReviewedPublications",
    "Resources/PatientConsentOrDisclosure",
    "Bibliography",
]
OF_A_METRIC = [
    *("MetricGoal", "Results", "Interpretation", "TestType", "TestingDataDescription"),
    "ValidationProcessAndJustification",
]


@pytest.fixture(scope="module")
def report():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    clf = LogisticRegression(C=0.001, max_iter=500).fit(X[:900], y[:900] == 8)
    return diagnostic_report(
        clf,
        X[900:],
        y[900:] == 8,
        pos_label=True,
        target_names=["other", "eight"],
        subgroups={"site": np.where(np.arange(len(y) - 900) % 2, "north", "south")},
        card={"intended_use": "Reading <post> codes & nothing else.\x0b"},
        saliency=None,
    )


def test_the_card_for_the_hub_begins_with_metadata_that_it_reads(report, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="the reader of such cards")
    report.to_hugging_face(tmp_path / "README.md")
    data = hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("sktransfer", "image-classification")
    measured = {result.metric_name: result.metric_value for result in data.eval_results}
    area = report.sections["roc"].data["roc_auc"].estimate
    assert measured["ROC AUC"] == pytest.approx(area, abs=1e-4)
    assert {"Sensitivity", "Specificity", "Accuracy"} < set(measured)
    text = report.to_hugging_face()
    assert text.index("## Model card") < text.index("## Data")
    assert "Research use only" in text


def test_the_applied_model_card_has_every_element_in_the_order_of_its_schema(report, tmp_path):
    report.to_chai(tmp_path / "card.xml")
    root = ET.parse(tmp_path / "card.xml").getroot()
    assert root.tag == f"{NAMESPACE}AppliedModelCard"
    for path in REQUIRED:
        assert root.find(NAMESPACE + path.replace("/", f"/{NAMESPACE}")) is not None, path
    for metric in root.find(f"{NAMESPACE}KeyMetrics"):
        assert [each.tag.removeprefix(NAMESPACE) for each in metric] == OF_A_METRIC
        assert len(metric.find(f"{NAMESPACE}Results")) >= 1
    first = [each.tag.removeprefix(NAMESPACE) for each in root]
    assert first == list(dict.fromkeys(path.split("/")[0] for path in REQUIRED))


def test_the_applied_model_card_says_what_is_known_and_what_was_given(report):
    given = {"ModelDeveloper": "Ward 7", "Bibliography": "@article{a}"}
    root = ET.fromstring(report.to_chai(fields=given))
    texts = {each.tag.removeprefix(NAMESPACE): each.text for each in root.iter()}
    assert texts["ModelDeveloper"] == "Ward 7"
    assert texts["FundingSource"] == "Not stated."
    assert texts["IntendedUseAndWorkflow"] == "Reading <post> codes & nothing else."
    values = {
        result[0].text: json.loads(result[1].text)
        for result in root.iter(f"{NAMESPACE}MetricResult")
    }
    area = report.sections["roc"].data["roc_auc"]
    assert values["ROC AUC"]["estimate"] == pytest.approx(area.estimate, abs=1e-4)
    assert values["ROC AUC"]["lower"] == pytest.approx(area.low, abs=1e-4)
    assert values["ROC AUC"]["level"] == 95
    assert {"ROC AUC, site: north", "Calibration slope (goal: 1)"} < set(values)
    with pytest.raises(ValueError, match=r"has no field 'Developer'; it has .*ModelDeveloper"):
        report.to_chai(fields={"Developer": "Ward 7"})
