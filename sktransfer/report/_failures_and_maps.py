"""The sections with images: failures, and what the score depends on."""

from __future__ import annotations

from typing import Any

import numpy as np

from sktransfer._utils.sklearn_compat import _safe_indexing
from sktransfer.inspection import (
    ErrorGalleryDisplay,
    SaliencyDisplay,
    saliency_maps,
    saliency_randomization_test,
)
from sktransfer.inspection._differentiable import differentiable_shares
from sktransfer.inspection._estimator_images import images_of
from sktransfer.report._scored_rows import ScoredRows
from sktransfer.report._section import Section, new_figure, number

# Images of the sanity test of maps.
_TESTED = 12
# Images in a row of the gallery.
_COLUMNS = 4
_MEANING = {
    "gradient": "size of the gradient",
    "integrated_gradients": "integrated gradients",
    "grad_cam": "Grad-CAM",
    "occlusion": "fall of the score when covered",
}


def failures_section(rows: ScoredRows, n_images: int, *, images: bool, identify: Any) -> Section:
    """Write the errors with the highest confidence, of both kinds."""
    section = Section("failures", "Failures")
    wrong = rows.predicted != rows.is_positive
    missed = wrong & rows.is_positive
    section.data = {
        "errors": int(wrong.sum()),
        "missed": int(missed.sum()),
        "false_alarms": int((wrong & ~rows.is_positive).sum()),
    }
    section.text.append(
        f"{int(wrong.sum())} of {len(rows.y)} images are misclassified: {int(missed.sum())} of "
        f"{rows.positive} are missed, {section.data['false_alarms']} are false alarms."
    )
    if not images or n_images < 1 or not wrong.any():
        return section
    display = ErrorGalleryDisplay.from_predictions(
        rows.y,
        # Probabilities, or other scores about zero.
        rows.score if rows.score is rows.proba else rows.score - rows.threshold,
        images_of(rows.estimator, rows.X),
        y_pred=np.where(rows.predicted, rows.positive, rows.negative),
        labels=[rows.negative, rows.positive],
        n_images=n_images,
        by_class=True,
        groups=rows.groups,
        row_names=None if identify is None else rows.of(identify, "names of rows"),
        figure=new_figure(),
    )
    shown = display.table
    section.data["shown"] = [
        {"row": int(rows.kept[row]), "true": true, "score": float(rows.score[row])}
        for row, true in zip(shown["row"], shown["y_true"], strict=True)
    ]
    lines = sum(-(-int(count) // _COLUMNS) for count in shown["y_true"].value_counts() if count)
    section.text.append(
        "Look at them for wrong labels, for images of something else, and for what they have in "
        "common."
    )
    section.add_figure(
        lambda figure: display.plot(
            figure=figure, n_columns=_COLUMNS, show_rows=identify is not None
        ),
        alt=f"{len(shown)} images that were misclassified, with true and predicted class and the "
        "score of the latter.",
        caption="The errors with the highest confidence, those of each class in rows of their own"
        + (", one for each patient." if rows.groups is not None else "."),
        size=(7.0, 2.3 * lines + 0.4),
        photographs=True,
    )
    return section


def saliency_section(
    rows: ScoredRows, method: str | None, n_images: int, *, images: bool, random_state: int
) -> Section:
    """Write what changes the score of a few images, and whether such maps can be trusted."""
    section = Section("saliency", "What the score depends on")
    if method is None or n_images < 1:
        section.remark("No maps were requested.")
        return section
    chosen = _selected(rows, n_images)
    X = _safe_indexing(rows.X, list(chosen.values()))
    labels = np.full(len(chosen), rows.pos_label)
    method = _possible(section, rows, method, X, labels)
    section.data = {"method": method, "rows": [int(rows.kept[row]) for row in chosen.values()]}
    section.text.append(
        "A map shows what changes this model's score. It does not show where a disease is, and a "
        "plausible map is no evidence that the model is right."
    )
    if images:
        display = SaliencyDisplay.from_estimator(
            rows.estimator, X, labels, method=method, figure=new_figure()
        )
        display.titles = list(chosen)
        section.add_figure(
            lambda figure: display.plot(figure=figure),
            alt=f"{len(chosen)} images, and alongside each the {method} map of the score of "
            f"{rows.positive}: " + "; ".join(chosen) + ".",
            caption=f"Left the image, right what the score of {rows.positive} depends on "
            f"({_MEANING[method]}). What the network does not see is pale.",
            size=(6.4, 2.7 * len(chosen)),
            photographs=True,
        )
    if method == "occlusion":
        section.remark(
            "Maps by occlusion are measured on the model itself, with parts of the image "
            "covered; the sanity test is for maps that are computed from gradients."
        )
    else:
        _sanity(section, rows, method, random_state)
    return section


def _possible(section: Section, rows: ScoredRows, method: str, X: Any, labels: np.ndarray) -> str:
    """Return the method, or occlusion where there is no gradient."""
    if method == "occlusion":
        return method
    try:
        saliency_maps(rows.estimator, _safe_indexing(X, [0]), labels[:1], method=method)
    except TypeError as error:
        section.remark(f"Maps are by occlusion, since {method} is not possible: {error}")
        return "occlusion"
    return method


def _sanity(section: Section, rows: ScoredRows, method: str, random_state: int) -> None:
    """Write whether maps change when weights are randomized (Adebayo et al., 2018)."""
    rng = np.random.default_rng(random_state)
    some = np.sort(rng.choice(len(rows.y), min(_TESTED, len(rows.y)), replace=False))
    whole, members = differentiable_shares(rows.estimator)
    tested = rows.estimator
    if len(members) > 1:  # their maps are added up, and weights are randomized in one network
        tested = whole.best_estimator_
        section.remark(
            f"The maps are sums over the {len(members)} models that are averaged. The sanity test "
            "is of the best single one (best_estimator_)."
        )
    result = saliency_randomization_test(
        tested,
        _safe_indexing(rows.X, some.tolist()),
        np.full(len(some), rows.pos_label),
        method=method,
        random_state=random_state,
    )
    section.data["sanity"] = {
        "passed": result.passed,
        "max_correlation": result.max_correlation,
        "steps": result.table.to_dict("records"),
    }
    if result.passed:
        section.remark(
            "Sanity test passed: the maps change when the weights are randomized. They depend on "
            "what was learned."
        )
    else:
        section.warn(
            "Sanity test failed: the maps hardly change when the weights are randomized. They show "
            "edges of the images and not what the model learned: do not interpret them."
        )
    section.add_table(
        f"Maps of {len(some)} images while the model is randomized, from its end to its beginning",
        ["Randomized down to", "Rank correlation with the original maps", "Similarity (SSIM)"],
        [
            [line["randomized"], number(line["correlation"], 2), number(line["similarity"], 2)]
            for line in result.table.to_dict("records")
        ],
        "The mean correlation over the first half of the steps must be at most "
        f"{result.max_correlation:g}.",
    )


def _selected(rows: ScoredRows, n_images: int) -> dict[str, int]:
    """Return rows by their titles: those of highest confidence of each outcome in turn."""
    positive, predicted = rows.is_positive, rows.predicted
    outcomes = {
        f"{rows.positive}, detected": (positive & predicted, -1),
        f"{rows.negative}, predicted {rows.positive}": (~positive & predicted, -1),
        f"{rows.positive}, missed": (positive & ~predicted, 1),
        f"{rows.negative}, predicted {rows.negative}": (~positive & ~predicted, 1),
    }
    ranked = []
    for title, (own, sign) in outcomes.items():
        members = np.flatnonzero(own)
        order = members[np.argsort(sign * rows.score[members], kind="stable")]
        for place, row in enumerate(order[:n_images].tolist()):
            number_of = "" if place == 0 else f" #{place + 1}"
            ranked.append((place, f"{title} ({rows.score[row]:.2f}){number_of}", row))
    ranked.sort(key=lambda entry: entry[0])  # stable: the outcomes take turns
    return {title: row for _, title, row in ranked[:n_images]}
