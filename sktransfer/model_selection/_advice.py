"""The sentences of an advice: why this quadrant, and what speaks against it; it must not compute
anything that is not in them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from sktransfer.model_selection._distance import DomainDistance

# Images of a class from which on the notes call a set large.
LARGE = 1000

READINGS = {
    "extract": "keep the whole network frozen and train a new classifier on its embeddings",
    "truncate": "drop the late stages and train a linear classifier on an earlier one",
    "fine-tune part": "keep the first half of the stages frozen and train the rest",
    "train the top": "keep most stages frozen and train the last ones",
    "train everything": "start from the pretrained weights and train all stages",
}


def reasons(counts: np.ndarray, distance: DomainDistance) -> tuple[str, ...]:
    """How the quadrant was found."""
    threshold = distance.threshold
    size = "large" if counts.min() >= LARGE else "small"
    of = "these weights" if threshold.calibrated else "another network (none is known for this one)"
    return (
        f"Size: {counts.min()} images of the smallest class, against {LARGE:,}: {size}.",
        f"Similarity: distance {distance.distance:.3f} from what {distance.backbone} was trained "
        f"on, against {threshold.value:.3f} of {of}: {distance.reading}.",
    )


def caveats(
    size: str,
    side: str,
    readings: tuple[str, ...],
    counts: np.ndarray,
    distance: DomainDistance,
    evidence: pd.DataFrame,
    scoring: str,
) -> tuple[str, ...]:
    """What the evidence says against following the matrix blindly."""
    found = [_of_the_layers(evidence, scoring)]
    if "gray zone" in distance.reading:
        low, high = distance.threshold.similar_below, distance.threshold.dissimilar_above
        found.append(
            f"The distance lies in the gray zone of this network ({low:.3f} to {high:.3f}): the "
            "other side of the matrix is as good a guess."
        )
    if not distance.threshold.calibrated:
        found.append("The threshold was not measured with these weights.")
    if counts.max() > 3 * counts.min():
        found.append(
            f"Classes are uneven ({counts.min()} to {counts.max()} images), and the size is that "
            "of the smallest."
        )
    if len(readings) == 2:
        found.append(
            f"The notes can be read in two ways here: {readings[0]!r} and {readings[1]!r}."
        )
    found.append(
        "The distance is of the images, not of the labels: an easy task may be far away, and a "
        "hard one near."
    )
    if size == "small":
        found.append(
            "That 1,000 images of a class are few is about training from nothing: on ImageNet, "
            "a network from scratch loses 1.1 points of accuracy from 1,300 to 1,000 a class and "
            "16.8 to 250 (logs of Yosinski et al., 2014). Pretrained weights bear much less."
        )
    else:
        found.append(
            "With much data and long training, a network from random weights catches up (He, "
            "Girshick & Dollar, 2019), on medical images too (Raghu et al., 2019): what "
            "pretraining still gives is speed."
        )
    if readings[0] == "extract":
        found.append(
            "Fine-tuning is usually at least as accurate as frozen features (Kornblith et al., "
            "2019), and on shifted data less so (Kumar et al., 2022)."
        )
    if side == "dissimilar":
        found.append(
            "Frozen late layers lose most where the tasks are far apart: 25 points against 8 in "
            "the halves of Yosinski et al. (2014). Fine-tuned ones lost nothing."
        )
    return tuple(found)


def _of_the_layers(evidence: pd.DataFrame, scoring: str) -> str:
    best, end = evidence.loc[evidence["score"].idxmax()], evidence.iloc[-1]
    text = (
        f"Measured here, leave-one-out {scoring.replace('_', ' ')} of frozen features: "
        f"{end['score']:.3f} at the {end['layer']} ({end['low']:.3f} to {end['high']:.3f})"
    )
    if best["layer"] == end["layer"]:
        return f"{text}, which is the best place to cut."
    return (
        f"{text}; best at {best['layer']}, {best['score']:.3f} "
        f"({best['low']:.3f} to {best['high']:.3f})."
    )
