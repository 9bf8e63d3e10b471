"""The frozen part of a network, ready to run: truncated, folded, on its device, by its engine.

It must not know where images come from, what a cache is, or what is done with the activations.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from sktransfer._backbones import Backbone
from sktransfer._frozen import _engines, _int8
from sktransfer._frozen._calibration import Calibration
from sktransfer._frozen._engines import DTYPES, TorchEngine
from sktransfer._frozen._folding import fold_batch_norm
from sktransfer._frozen._layers import LayerOutput, LayerOutputs, NetworkInfo, all_outputs
from sktransfer._frozen._openvino import OpenVinoEngine
from sktransfer._utils.forking import after_fork, lose, new_lock
from sktransfer.exceptions import ImageDecodeError, MissingDependencyError


class Engine(Protocol):
    """What computes one set of outputs of a batch; several threads may call it."""

    @property
    def name(self) -> str:
        """As it stands in fingerprints."""

    def __call__(self, batch: Tensor) -> list[Tensor]:
        """Return one tensor (n, d) per output."""

    def rest(self) -> bool:
        """Give back the memory that batches took; return whether that was possible."""


# Converted networks kept per network: a grid over layers needs as many as it has layers. Each takes
# about twice the network: its weights, and these once more as its kernels want them.
_MAX_ENGINES = 8
_COPIES = 2
# Bytes of its compiled kernels: 10 to 40 MB, also of a network that has next to no weights.
_KERNELS = 32 * 2**20

# What torch, OpenVINO and C++ say, on the systems there are.
_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
    *("bad_alloc", "bad allocation"),
)

# Numbers in a batch above which what it took is worth giving back: seven images of 224 pixels.
_LARGE_BATCH = 2**20


# Held while an engine is looked for or made; one for all networks, which are converted in turn.
_ENGINES = new_lock()


class FrozenNetwork:
    """Leading stages of a network prepared for one device and precision; never trained or changed.

    Copies of the first ``depth`` stages of a whole backbone are kept, and of its neck if ``depth``
    is one more than there are stages. ``engine`` is as :func:`resolve_engine` returns it: "auto" is
    resolved for each set of outputs and image size. ``calibration`` belongs to precision "int8",
    whose networks are quantized for each set of outputs too. Stages of ``reuse``, a shallower
    network that is otherwise the same, are taken over.
    """

    def __init__(
        self,
        backbone: Backbone,
        depth: int,
        *,
        precision: str = "float32",
        device: str = "cpu",
        engine: str = "torch",
        calibration: Calibration | None = None,
        reuse: FrozenNetwork | None = None,
    ) -> None:
        self.info = NetworkInfo.of(backbone)
        self.depth, self.precision, self.device, self.engine = depth, precision, device, engine
        self.calibration = calibration
        # Other engines are given the weights in float32 and round them themselves; what they are
        # compared with is computed in float32 too.
        self._held_as = precision if engine == "torch" else "float32"
        self._engines: dict[tuple, Engine] = {}  # the most recently used last
        self._digests: dict[tuple[tuple[LayerOutput, ...], int], str] = {}  # of quantized ones
        self._widths: dict[tuple[tuple[LayerOutput, ...], int], tuple[int, ...]] = {}
        self._largest = 0  # numbers in a batch, since this network rested
        # A black image runs along, for the folding to watch.
        side = self.info.input_spec.crop_size
        example: Tensor | None = torch.zeros(1, 3, side, side, dtype=torch.float32)
        given: list[tuple[nn.Module, Tensor | None]] = []
        self._shapes: list[tuple[int, ...]] = []  # of one image after each stage
        for stage in backbone.stages[:depth]:
            given.append((stage.module, example))
            try:
                with torch.inference_mode(), torch.autocast("cpu", enabled=False):
                    example = None if example is None else stage.module(example)
            except Exception:  # then what comes after is run as it is, unfolded
                example = None
            if example is not None:
                self._shapes.append(tuple(example.shape[1:]))
        neck = backbone.neck if depth > len(self.info.stages) else None
        if neck is not None:
            given += [(neck.norm, example), (nn.Sequential(neck.pool, neck.post), None)]
        self.stages: list[nn.Module] = [] if reuse is None else list(reuse.stages)
        for module, example in given[len(self.stages) :]:
            dtype = DTYPES[self._held_as]
            prepared = fold_batch_norm(module, example, dtype=dtype).to(device, dtype)
            # channels_last is a layout of 4-D weights, not a change of numbers: convolutions are
            # 1.1 to 1.7 times faster with it on CPUs and GPUs alike.
            self.stages.append(prepared.to(memory_format=torch.channels_last))
        self.neck: list[nn.Module] | None = None
        if neck is not None:
            self.stages, self.neck = self.stages[:-2], self.stages[-2:]

    @property
    def n_bytes(self) -> int:
        """Bytes of parameters and buffers held, by converted copies too."""
        with _ENGINES:
            held, kernels = [*self.stages, *(self.neck or ())], 0
            for (outputs, *_), engine in self._engines.items():
                stages = self.stages[: self.info.depth(outputs)]
                if engine.name != "torch":
                    held += stages * _COPIES
                    kernels += _KERNELS
                elif self._held_as != self.precision:
                    held += stages
        tensors = (t for module in held for t in (*module.parameters(), *module.buffers()))
        return kernels + sum(t.numel() * t.element_size() for t in tensors)

    def run(
        self, batch: Tensor, outputs: Sequence[LayerOutput], *, plain: bool = False
    ) -> list[Tensor]:
        """Compute ``outputs`` in one pass over a batch of normalized images.

        Returns one tensor (n, d) per output on the device, float32 or, in that precision, float64.
        ``plain`` is in torch, on the stages as they are held, whatever the engine. Raises
        ValueError if the engine was asked for by name and cannot compute them.
        """
        self._largest = max(self._largest, batch.numel())
        if plain or self.engine == "torch":
            chain = LayerOutputs(self.info, self.stages, self.neck, outputs)
            return TorchEngine(chain, self._held_as, self.device)(batch)
        return self._engine(tuple(outputs), batch.shape[2])(batch)

    def rest(self) -> bool:
        """Give back what batches took, for another network to use; return whether it may be much.

        Results do not change, and the next batch takes it again.
        """
        if self._largest < _LARGE_BATCH:
            return False
        with _ENGINES:
            rested = [engine.rest() for engine in self._engines.values()]
            if all(rested):
                self._largest = 0
        return True

    def engine_for(self, outputs: Sequence[LayerOutput], side: int) -> str:
        """Return the engine that computes ``outputs`` on images of ``side`` pixels.

        It is resolved here if it was not before, which takes a second or so. With ``"auto"`` it is
        remembered for other processes. Raises as :meth:`run` does.
        """
        outputs = tuple(outputs)
        name = "torch" if self.engine == "torch" else self._engine(outputs, side).name
        if self.engine == "auto":
            # Again, if it was resolved before: the home may be another one by now.
            _engines.remember(self.info.reference, self.precision, outputs, side, engine=name)
        return name

    def widths(self, outputs: Sequence[LayerOutput], side: int) -> tuple[int, ...]:
        """Return the columns of each output for images of ``side`` pixels, by running a black one.

        Raises ValueError if the network cannot run on images of that side.
        """
        key = (tuple(outputs), side)
        if key not in self._widths:
            black = torch.zeros(1, 3, side, side, dtype=torch.float32)
            try:
                # In torch: its messages are clear for images too small.
                parts = self.run(black, outputs, plain=True)
            except (RuntimeError, ValueError, AssertionError) as error:
                if is_out_of_memory(error):
                    raise
                name, own = self.info.reference.name, self.info.input_spec.crop_size
                raise ValueError(
                    f"{name} cannot run on images of {side} x {side} pixels ({error}); its weights "
                    f"were made for {own} x {own}."
                ) from error
            self._widths[key] = tuple(part.shape[1] for part in parts)
        return self._widths[key]

    def all_outputs(self, pooling: str = "avg") -> tuple[LayerOutput, ...]:
        """Return what all layers are; they must have been asked for down to the last.

        They are the same for images of any size.
        """
        shapes, side = self._shapes, self.info.input_spec.crop_size
        if len(shapes) < self.info.n_trained:  # which raises what the network raises
            shapes = [self.shape_after(stage, side) for stage in range(self.info.n_trained)]
        return all_outputs(self.info, shapes, pooling)

    def shape_after(self, stage: int, side: int) -> tuple[int, ...]:
        """Return the shape of what a stage makes of one image, as ``pooling="raw"`` ravels it."""
        dtype = DTYPES[self._held_as]
        x = torch.zeros(1, 3, side, side, dtype=dtype, device=self.device)
        with torch.inference_mode(), torch.autocast(self.device.split(":")[0], enabled=False):
            for module in self.stages[: stage + 1]:
                x = module(x)
        return tuple(x.shape[1:])

    def _lose_engines(self) -> None:
        """Do without converted networks in a forked child: their threads are the parent's."""
        lose(self._engines)
        self._engines = {}

    def _engine(self, outputs: tuple[LayerOutput, ...], side: int) -> Engine:
        """Return the engine of these outputs, resolved once."""
        key = (outputs, side, torch.get_num_threads())
        with _ENGINES:
            engine = self._engines.get(key)
            if self._engines and next(reversed(self._engines)) != key:
                self.rest()  # of all layers in turn, one has the memory of a batch
            if engine is None:
                if not self._engines:
                    after_fork(self._lose_engines)
                engine = self._resolve(outputs, side)
            self._engines.pop(key, None)
            self._engines[key] = engine
            if len(self._engines) > _MAX_ENGINES:
                del self._engines[next(iter(self._engines))]
            return engine

    def _resolve(self, outputs: tuple[LayerOutput, ...], side: int) -> Engine:
        """Return OpenVINO if it works and agrees with torch; else torch, or raise if not "auto"."""
        held = LayerOutputs(self.info, self.stages, self.neck, outputs)
        plain = TorchEngine(held, self._held_as, self.device)
        # Two random images, always the same, as a network would be given them.
        generator = torch.Generator().manual_seed(0)
        batch = torch.randn(2, 3, side, side, generator=generator, dtype=torch.float32)
        reference = plain(batch)  # where torch cannot, the error is torch's
        if self.precision == "int8":
            return self._quantize(plain, outputs, side)
        tolerance = _engines.TOLERANCES[self.precision]
        found: Engine | None = None
        cause: Exception | None = None
        try:
            with torch.autocast("cpu", enabled=False):
                found = OpenVinoEngine(plain.chain, (side, side), self.precision)
            apart = _engines.largest_distance(found(batch), reference)
            why = f"its numbers are {apart:.1e} away from torch's, more than {tolerance:.0e}"
            agrees = apart <= tolerance
        except Exception as error:  # a converter may fail in any way at all
            if "KeyboardInterrupt" in str(error):  # which it takes for its own failure
                raise KeyboardInterrupt from error
            why, agrees, cause = str(error).strip() or type(error).__name__, False, error
        if found is None or not agrees:
            if self.engine != "auto":
                if isinstance(cause, MissingDependencyError):
                    raise cause
                name = self.info.reference.name
                raise ValueError(
                    f"engine='openvino' cannot run {name} on images of {side} x {side} pixels: "
                    f"{why}. {_engines.HOW_TO_CONTINUE}"
                ) from cause
            found = plain
            if self._held_as != self.precision:
                chain = copy.deepcopy(plain.chain).to(DTYPES[self.precision])
                found = TorchEngine(chain, self.precision, self.device)
        if self.engine == "auto":
            network = self.info.reference
            _engines.remember(network, self.precision, outputs, side, engine=found.name)
        return found

    def digest(self, outputs: Sequence[LayerOutput], side: int) -> str:
        """Return the digest of the quantized network, which is made if it is not there."""
        self._engine(tuple(outputs), side)
        # Noted when the engine was made: on disk it may be gone, or the home be another by now.
        return self._digests[tuple(outputs), side]

    def _question(self, outputs: tuple[LayerOutput, ...], side: int) -> str:
        """Return what names the quantized network of these outputs."""
        assert self.calibration is not None
        return _int8.question_of(self.info.reference, outputs, side, calibration=self.calibration)

    def _quantize(self, plain: TorchEngine, outputs: tuple[LayerOutput, ...], side: int) -> Engine:
        """Return the quantized network; raise where it is too far from torch, or impossible."""
        assert self.calibration is not None
        name, instead = self.info.reference.name, "Use precision='bfloat16' or 'float32'."
        try:
            with torch.autocast("cpu", enabled=False):
                question = self._question(outputs, side)
                found = _int8.quantized(question, plain.chain, self.calibration, plain)
                engine = found.engine()
                self._digests[outputs, side] = found.digest
        except (MissingDependencyError, ImageDecodeError):
            raise
        except Exception as error:  # a converter may fail in any way at all
            if "KeyboardInterrupt" in str(error):
                raise KeyboardInterrupt from error
            why = str(error).strip() or type(error).__name__
            raise ValueError(
                f"precision='int8' cannot run {name} on images of {side} x {side} pixels: {why}. "
                f"{instead}"
            ) from error
        worst = max(range(len(outputs)), key=lambda i: found.errors[i])
        if not found.errors[worst] <= _int8.LARGEST_ERROR:
            stage = outputs[worst].stage
            layer = "its embedding" if stage is None else f"layer {self.info.stages[stage].name!r}"
            raise ValueError(
                f"precision='int8' is too inaccurate for {name}: in {layer}, the median relative "
                f"error is {found.errors[worst]:.0%}, more than {_int8.LARGEST_ERROR:.0%}. "
                f"{instead} Or give a hundred images like yours as calibration, or another layer."
            )
        return engine


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device, or the machine, ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return any(words in text for words in _OUT_OF_MEMORY)
