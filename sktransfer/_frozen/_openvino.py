"""Running a torch module with OpenVINO on a CPU; it must not know networks or layers.

``openvino`` is imported when the first module is converted, never before.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sktransfer._utils import config as _config
from sktransfer._utils.forking import after_fork, new_lock

# Tracing records which warnings are caught in a list of the process, and has not been made for
# several threads either.
_lock = new_lock()

# Whether this process has run OpenVINO, and whether it was forked from one that had: in there,
# OpenVINO waits for threads that the child does not have.
_used = _lost = False

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}

# How often Ctrl-C is looked for while a batch runs.
_POLL_MILLISECONDS = 200

# How many images are traced: not one (a size of one broadcasts, and a mistake would not show),
# and not as many as the agreement is tested with (a size that was baked in would not show either).
_TRACED = 3


def is_lost() -> bool:
    """Return whether OpenVINO cannot run here, in a child that was forked after it had run."""
    return _lost


def _note_fork() -> None:
    global _lost
    _lost = _lost or _used


after_fork(_note_fork)


class OpenVinoEngine:
    """A module converted and compiled for images of one shape, in batches of any size.

    ``module`` is in eval mode and float32, and returns a tuple of tensors (n, d). Any exception at
    all may be raised where it cannot be converted.
    """

    name = "openvino"

    def __init__(self, module: nn.Module, shape: Sequence[int], precision: str) -> None:
        self._compile(lambda: _convert(module, shape), precision)

    def _compile(self, make: Callable[[], Any], precision: str) -> None:
        """Compile what ``make`` returns."""
        global _used
        if _lost:
            raise RuntimeError(
                "this process was forked from one in which OpenVINO had run, and would wait for "
                "its threads for ever; start processes with spawn, forkserver or joblib"
            )
        _used = True
        with _lock:
            self._compiled = _core().compile_model(
                make(),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    # One stream that all threads work on: a batch comes back soonest, and smaller
                    # batches than the runner's cost nothing extra.
                    "PERFORMANCE_HINT": "LATENCY",
                    # Pinned threads of two worker processes would sit on the same core.
                    "ENABLE_CPU_PINNING": False,
                },
            )
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != _PRECISIONS[precision]:
            raise RuntimeError(f"this processor has no {precision} arithmetic")
        self._n_outputs = len(self._compiled.outputs)
        # A request is what one thread may use at a time; there are as many as threads at once.
        self._idle: list[Any] = []

    def __call__(self, batch: Tensor) -> list[Tensor]:
        """Run a batch; several threads may."""
        values = batch.to(device="cpu", dtype=torch.float32).contiguous().numpy()
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            request.start_async([values], share_inputs=True)
            while not request.wait_for(_POLL_MILLISECONDS):
                pass  # here Python looks for Ctrl-C, which native code would not
            outputs = [request.get_output_tensor(i).data for i in range(self._n_outputs)]
            return [torch.from_numpy(output.copy()) for output in outputs]
        except BaseException:
            request.cancel()
            with suppress(Exception):
                request.wait()  # it reads `values`, and ends with its present layer
            raise
        finally:
            self._idle.append(request)

    def rest(self) -> bool:
        """Give back the memory that a batch takes, which may be many times that of the weights.

        Returns False if a thread is running one.
        """
        self._idle.clear()
        try:
            self._compiled.release_memory()
        except RuntimeError:
            return False
        return True


class IntegerEngine(OpenVinoEngine):
    """A quantized model, read from bytes; what of it is not in integers is in ``precision``."""

    def __init__(self, xml: bytes, weights: bytes, precision: str) -> None:
        def read() -> Any:
            tensor = _import_openvino().Tensor(np.frombuffer(weights, dtype=np.uint8).copy())
            return _core().read_model(model=xml, weights=tensor)

        self._compile(read, precision)


def write_model(module: nn.Module, shape: Sequence[int], path: Path) -> None:
    """Convert a module and write it to a file of OpenVINO, in float32."""
    with _lock:
        _import_openvino().save_model(_convert(module, shape), path, compress_to_fp16=False)


def _convert(module: nn.Module, shape: Sequence[int]) -> Any:
    """Convert ``module`` to an OpenVINO model for any number of images.

    This is what ``openvino.convert_model`` does, without its telemetry.
    """
    openvino = _import_openvino()
    decoders = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
    example = torch.zeros(_TRACED, 3, *shape, dtype=torch.float32)
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        # The tracer says which shapes became constants (the agreement is tested with another number
        # of images), and torch that it would like to see its exporter used, which takes ten times
        # as long.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message=r"`?torch\.jit\.")
        traced = torch.jit.trace(module, example, check_trace=False, strict=False)
        frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
        # Both have to live until the conversion is done.
        decoder = decoders.TorchScriptPythonDecoder(traced)
        loaded = frontend.load(decoder)
        model = frontend.convert(loaded)
    model.reshape([-1, 3, *shape])
    return model


@cache
def _core() -> Any:
    """Return the one OpenVINO runtime of the process."""
    return _import_openvino().Core()


def _import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which would write to the home and call out."""
    with _lock:
        telemetry = "openvino_telemetry"
        block = telemetry not in sys.modules and "openvino" not in sys.modules
        if block:
            # None makes an import fail; openvino then uses an empty stub of its own.
            sys.modules[telemetry] = None  # type: ignore[assignment]
        try:
            return _config.import_optional("openvino", extra="fast", purpose="engine='openvino'")
        finally:
            if block:
                del sys.modules[telemetry]
