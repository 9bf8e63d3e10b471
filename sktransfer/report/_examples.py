"""Images in a report: the surest errors, and what the score depends on; never a metric."""

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
from sktransfer.inspection._estimator_images import images_of
from sktransfer.report._document import Section, Table, number
from sktransfer.report._figures import scratch, themed
from sktransfer.report._rows import Rows

# Images that the sanity test of maps is made with.
_TESTED = 12
_COLUMNS = 4
_MEANING = {
    "gradient": "size of the gradient",
    "integrated_gradients": "integrated gradients",
    "grad_cam": "Grad-CAM",
    "occlusion": "fall of the score when covered",
}


def failures(rows: Rows, n_images: int, *, images: bool, identify: Any) -> Section:
    """The errors the model was surest of, of both kinds."""
    section = Section("failures", "Failures")
    wrong = rows.called != rows.is_positive
    missed = wrong & rows.is_positive
    section.data = {
        "errors": int(wrong.sum()),
        "missed": int(missed.sum()),
        "false_alarms": int((wrong & ~rows.is_positive).sum()),
    }
    section.text.append(
        f"{int(wrong.sum())} of {len(rows.y)} images are called wrongly: {int(missed.sum())} of "
        f"{rows.positive} are missed, {section.data['false_alarms']} others are called so."
    )
    if not images or n_images < 1 or not wrong.any():
        return section
    display = ErrorGalleryDisplay.from_predictions(
        rows.y,
        _about_threshold(rows),
        images_of(rows.estimator, rows.X),
        y_pred=np.where(rows.called, rows.positive, rows.negative),
        labels=[rows.negative, rows.positive],
        n_images=n_images,
        by_class=True,
        groups=rows.groups,
        row_names=None if identify is None else rows.of(identify, "names of rows"),
        figure=scratch(),
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
    section.figures.append(
        themed(
            lambda figure: display.plot(
                figure=figure, n_columns=_COLUMNS, show_rows=identify is not None
            ),
            name="failures",
            alt=f"{len(shown)} images that were called wrongly, with true and predicted class "
            "and the score of the latter.",
            caption="The errors that the model was surest of, those of each class in rows of "
            "their own" + (", one for each patient." if rows.groups is not None else "."),
            size=(7.0, 2.3 * lines + 0.4),
            photographs=True,
        )
    )
    return section


def saliency(
    rows: Rows, method: str | None, n_images: int, *, images: bool, random_state: int
) -> Section:
    """What moves the score of a few images, and whether such maps can be trusted."""
    section = Section("saliency", "What the score depends on")
    if method is None or n_images < 1:
        section.remark("No maps were asked for.")
        return section
    chosen = _telling(rows, n_images)
    X = _safe_indexing(rows.X, list(chosen.values()))
    target = np.full(len(chosen), rows.label)
    method = _possible(section, rows, method, X, target)
    section.data = {"method": method, "rows": [int(rows.kept[row]) for row in chosen.values()]}
    section.text.append(
        "A map says what moves this model's score. It does not say where a disease is, and a "
        "plausible map is no evidence that the model is right."
    )
    if images:
        display = SaliencyDisplay.from_estimator(
            rows.estimator, X, target, method=method, figure=scratch()
        )
        display.titles = list(chosen)
        section.figures.append(
            themed(
                lambda figure: display.plot(figure=figure),
                name="saliency",
                alt=f"{len(chosen)} images, and alongside each the {method} map of the score of "
                f"{rows.positive}: " + "; ".join(chosen) + ".",
                caption=f"Left the image, right what the score of {rows.positive} depends on "
                f"({_MEANING[method]}). Pale is what the network does not see.",
                size=(6.4, 2.7 * len(chosen)),
                photographs=True,
            )
        )
    if method == "occlusion":
        section.remark(
            "Maps by occlusion are measured on the model itself, with parts of the image "
            "covered; the sanity test is for maps that are made of gradients."
        )
    else:
        _sanity(section, rows, method, random_state)
    return section


def _possible(section: Section, rows: Rows, method: str, X: Any, target: np.ndarray) -> str:
    """The method, or occlusion where a gradient does not exist."""
    if method == "occlusion":
        return method
    try:
        saliency_maps(rows.estimator, _safe_indexing(X, [0]), target[:1], method=method)
    except TypeError as error:
        section.remark(f"Maps are by occlusion, since {method} is not possible: {error}")
        return "occlusion"
    return method


def _sanity(section: Section, rows: Rows, method: str, random_state: int) -> None:
    """Whether the maps change when the model forgets what it learned (Adebayo et al., 2018)."""
    rng = np.random.default_rng(random_state)
    some = np.sort(rng.choice(len(rows.y), min(_TESTED, len(rows.y)), replace=False))
    result = saliency_randomization_test(
        rows.estimator,
        _safe_indexing(rows.X, some.tolist()),
        np.full(len(some), rows.label),
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
            "Sanity test passed: with the weights randomized the maps are others. They depend on "
            "what was learned."
        )
    else:
        section.warn(
            "Sanity test failed: with the weights randomized the maps stay much as they are. "
            "They show edges of the images and not what the model learned: do not read them."
        )
    section.tables.append(
        Table(
            f"Maps of {len(some)} images while the model is randomized, from its end to its "
            "beginning",
            [
                "Randomized down to",
                "Rank correlation with the maps as they are",
                "Similarity (SSIM)",
            ],
            [
                [line["randomized"], number(line["correlation"], 2), number(line["similarity"], 2)]
                for line in result.table.to_dict("records")
            ],
            f"At the end the correlation must be at most {result.max_correlation:g}.",
        )
    )


def _about_threshold(rows: Rows) -> np.ndarray:
    """Scores as the gallery takes them: probabilities, or others about zero."""
    return rows.score if rows.score is rows.proba else rows.score - rows.threshold


def _telling(rows: Rows, n_images: int) -> dict[str, int]:
    """Rows to show: the surest of each outcome in turn, by a title."""
    outcomes = [
        (f"{rows.positive}, found", rows.is_positive & rows.called, -1),
        (f"{rows.negative}, called {rows.positive}", ~rows.is_positive & rows.called, -1),
        (f"{rows.positive}, missed", rows.is_positive & ~rows.called, 1),
        (f"{rows.negative}, passed", ~rows.is_positive & ~rows.called, 1),
    ]
    queues = []
    for title, own, sign in outcomes:
        members = np.flatnonzero(own)
        queues.append((title, list(members[np.argsort(sign * rows.score[members], kind="stable")])))
    chosen: dict[str, int] = {}
    place = 0
    while len(chosen) < n_images and any(queue for _, queue in queues):
        for title, queue in queues:
            if queue and len(chosen) < n_images:
                row = int(queue.pop(0))
                score = f"{rows.score[row]:.2f}"
                chosen[f"{title} ({score})" + ("" if place == 0 else f" #{place + 1}")] = row
        place += 1
    return chosen
