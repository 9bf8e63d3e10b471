"""``python -m sktransfer export``: a saved model as one ONNX file, for machines without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from sktransfer._utils.names import shown
from sktransfer._utils.writing import new_file
from sktransfer.datasets import load_image_folder
from sktransfer.deploy._export import export_onnx
from sktransfer.deploy._predicting import in_form_of
from sktransfer.report._command import load_model


def run_export(options: argparse.Namespace) -> None:
    """Load a model, write the ONNX file, and print how near it comes to the model."""
    output = new_file(options.output, "OUTPUT", "model.onnx")
    if options.calibration is not None and options.precision != "int8":
        raise ValueError("--calibration is for --precision int8, which is quantized on its images.")
    estimator = load_model(
        options.model, allow_pickle=options.allow_pickle, weights=options.weights
    )
    given = {}
    for name, folder in (("calibration", options.calibration), ("X", options.compare)):
        if folder is None:
            continue
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"There is no folder {folder!r}.")
        found = load_image_folder(folder, labels=None, metadata=None)
        print(f"{shown(folder)}: {found.DESCR}", flush=True)
        given[name] = found.data["image"]
        if name == "X":
            given[name] = in_form_of(estimator, given[name])
    made = export_onnx(estimator, output, precision=options.precision, **given)
    print(
        f"compared on {made.n_compared} images: probabilities differ by {made.max_difference:.1e} "
        f"at most, {made.share_equal:.1%} of the decisions are equal"
    )
    if "times_as_fast" in made:
        gain = f"{made.times_as_fast:.1f} times as fast"
        print(f"in integers networks are {gain} here; whole files gain less, see the guide")
    print(
        f"wrote {output.absolute()}: {made.n_bytes:,} bytes, {made.precision}, ONNX opset "
        f"{made.opset}"
    )
