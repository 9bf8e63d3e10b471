"""A process of its own that quantizes one network; run as a script, it imports no sktransfer.

NNCF prints, draws progress bars, changes Python's class of loggers, and would call home: none of
that belongs into the user's process. Arguments: a folder with ``float.xml`` and ``images.npy``,
whether this processor multiplies 8-bit integers without saturation, and estimators of ranges, names
of NNCF's. For each, ``<name>.xml`` and ``<name>.bin`` are left there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

# Convolutions on maps wider than this share of the image's side are left as they are. They are few
# and have few channels: their sums average few roundings, flat areas are rounded the same way at
# every position, and all that lies behind inherits it.
_WIDE = 0.25
# Depthwise convolutions are left too: they sum nine products and wait for memory, so that integers
# gain little. Networks of them have narrow layers, and enlarge what was rounded early: maps of the
# next two sizes are left as well, and sums of two maps, for a twentieth of their time.
_WIDE_WITH_DEPTHWISE = 0.0625


def main(folder: Path, exact: bool, ranges: list[str]) -> None:
    """Quantize the model of a folder, once for each estimator of ranges."""
    # None makes the import fail; both packages then use an empty stub of their own.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import numpy as np
    import openvino
    from openvino._offline_transformations import apply_moc_transformations

    model = openvino.Core().read_model(folder / "float.xml")
    # As `openvino.convert_model` does: without it no bias is found that could be corrected.
    apply_moc_transformations(model, cf=False, smart_reshape=True)
    images = np.load(folder / "images.npy")
    for name in ranges:
        quantized = quantize(model.clone(), images, exact, name)
        # Names count what the process has made, and are no part of the function.
        quantized.set_friendly_name("int8")
        for number, operation in enumerate(quantized.get_ordered_ops()):
            operation.set_friendly_name(str(number))
        written = folder / f"{name}.xml"
        openvino.serialize(quantized, written, written.with_suffix(".bin"))
        text = re.sub(r'\s*<attribute name="fused_names"[^>]*>', "", written.read_text("utf-8"))
        written.write_text(text, "utf-8")


def quantize(model: Any, images: Any, exact: bool, ranges: str) -> Any:
    """Return a model quantized on images."""
    import nncf
    from nncf.quantization import advanced_parameters as advanced
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return nncf.quantize(
        model,
        nncf.Dataset([images[row : row + 1] for row in range(len(images))]),
        subset_size=len(images),
        # Symmetric ranges for weights, and for activations ranges as they are.
        preset=nncf.QuantizationPreset.MIXED,
        # Biases that make up for the means of all errors before them: half the error of a ResNet on
        # images unlike those of the calibration is such a shift.
        fast_bias_correction=False,
        ignored_scope=nncf.IgnoredScope(names=left_as_they_are(model), validate=False),
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            # One bit less for weights keeps sums of two products within 16 bits.
            overflow_fix=advanced.OverflowFix.DISABLE if exact else advanced.OverflowFix.ENABLE,
            # A range for each channel, NNCF's way before convolutions in groups, would cut off
            # channels that answer to nothing in the images of the calibration.
            activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
            activations_range_estimator_params=getattr(RangeEstimatorParametersSet, ranges),
        ),
    )


def left_as_they_are(model: Any) -> list[str]:
    """Return the names of convolutions, and of sums of two maps, that are not quantized."""
    side = model.inputs[0].get_partial_shape()[2].get_length()
    sizes, depthwise, sums = {}, set(), []
    for operation in model.get_ordered_ops():
        kind, name = operation.get_type_name(), operation.get_friendly_name()
        if kind in ("Convolution", "GroupConvolution"):
            size = operation.get_output_partial_shape(0)[2]
            sizes[name] = size.get_length() if size.is_static else 0
            # Weights of groups are (groups, out, in, height, width).
            if kind == "GroupConvolution" and operation.get_input_partial_shape(1)[2] == 1:
                depthwise.add(name)
        elif kind == "Add":
            added = {value.get_node().get_type_name() for value in operation.input_values()}
            if not added & {"Constant", "Convert"}:  # else a bias, for instance
                sums.append(name)
    if not depthwise:
        return [name for name, size in sizes.items() if size > _WIDE * side]
    wide = [name for name, size in sizes.items() if size > _WIDE_WITH_DEPTHWISE * side]
    return [*wide, *sorted(depthwise.difference(wide)), *sums]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "exact", sys.argv[3:])
