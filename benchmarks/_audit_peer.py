"""Scores of labels by cleanlab, in an environment of its own: it is AGPL, and nothing imports it.

    pip install cleanlab
    python benchmarks/_audit_peer.py FILE.npz

The file holds features, labels of several draws, and out-of-fold probabilities; scores by cleanlab
are written next to it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
from cleanlab.classification import CleanLearning
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression

METHODS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


def main(path: Path) -> None:
    warnings.simplefilter("ignore")
    with np.load(path) as file:
        F, labels, probabilities = file["F"], file["labels"], file["probabilities"]
    found: dict[str, list[np.ndarray]] = {}
    for y, p in zip(labels, probabilities, strict=True):
        for method in METHODS:
            found.setdefault(method, []).append(get_label_quality_scores(y, p, method=method))
        learner = CleanLearning(LogisticRegression(max_iter=200), seed=0, verbose=False)
        issues = learner.find_label_issues(F, y)
        found.setdefault("CleanLearning", []).append(issues["label_quality"].to_numpy())
    np.savez(path.with_name("scores.npz"), **{k: np.array(each) for k, each in found.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
