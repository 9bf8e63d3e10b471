"""Who extracts: sktransfer's engines and its peers, each as it is meant to be used.

Run as a script it is one process of ``extraction.py``. A contestant is built from (network, file
of weights, ...) and gives a function from paths to embeddings. Peers that download weights are
given the same file instead; everything else of theirs is left as it is.
"""

from __future__ import annotations

import copy
import importlib.machinery
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from _common import (
    answer,
    cpu_seconds,
    median,
    n_cores,
    peak_memory_mb,
    seconds,
    torchvision_model,
)

BATCH = 32

Extract = Callable[[Sequence[str]], np.ndarray]


# --- sktransfer -------------------------------------------------------------------------------


class Spy:
    """Sees every run of sktransfer: counts images, and keeps the run for the bound."""

    def __init__(self) -> None:
        from sktransfer._frozen._extraction import Extraction

        self.n_images = 0
        self.batch: Any = None  # the largest one so far, as the network got it
        self.job: Any = None
        self.source: Any = None
        original = Extraction.run

        def run(job: Extraction) -> Any:
            compute = job.compute

            def counted(batch: Any) -> Any:
                self.n_images += len(batch)
                if self.batch is None or len(batch) > len(self.batch):
                    self.batch = copy.deepcopy(batch)
                return compute(batch)

            self.source, self.job = job.images, job
            job.compute = counted
            try:
                return original(job)
            finally:
                job.compute = compute

        Extraction.run = run  # type: ignore[method-assign]


def sktransfer_extractor(network: str, weights: str, **parameters: Any) -> Any:
    from sktransfer import PretrainedFeatureExtractor

    return PretrainedFeatureExtractor(network, weights=weights, **parameters)


def bound(spy: Spy, n: int, *, on_cpu: bool) -> dict[str, float]:
    """Seconds that decoding alone and the network alone take, each with all cores.

    Decoding is everything up to the uint8 square; the network is its warmed pass over one resident
    batch. On a CPU they share the cores, so the bound is their sum; with a GPU, the longer one.
    """
    job, source, cores = spy.job, spy.source, n_cores()

    def decode(row: int) -> np.ndarray:
        return job.preprocessing(source.open(row).decode())

    alone = seconds(lambda: [decode(row) for row in range(0, n, 4)]) * n / len(range(0, n, 4))
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(decode, range(min(n, 8))))
        together = seconds(lambda: list(pool.map(decode, range(n))))
    batch = spy.batch
    job.compute(batch)
    passes = max(3, round(n / len(batch)))
    forward = seconds(lambda: [job.compute(batch) for _ in range(passes)]) / passes / len(batch) * n
    # The stricter of the two ways to spread decoding over the cores.
    decoding = min(together, alone / cores)
    return {
        "decode_s": decoding,
        "decode_one_thread_s": alone,
        "decode_all_threads_s": together,
        "forward_s": forward,
        "bound_s": decoding + forward if on_cpu else max(decoding, forward),
    }


# --- peers ------------------------------------------------------------------------------------


class _Files(torch.utils.data.Dataset):
    def __init__(self, paths: Sequence[str], transform: Callable) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        from PIL import Image

        with Image.open(self.paths[i]) as image:
            return self.transform(image.convert("RGB"))


def torchvision_recipe(
    network: str, weights: str, *, workers: int = 0, autocast: bool = False, device: str = "cpu"
) -> Extract:
    """The recipe of a hundred tutorials: Dataset, DataLoader, fc = Identity, inference mode."""
    import torchvision

    model = torchvision_model(network, weights).eval().to(device)
    model.fc = torch.nn.Identity()
    transform = torchvision.models.get_model_weights(network).DEFAULT.transforms()

    def extract(paths: Sequence[str]) -> np.ndarray:
        loader = torch.utils.data.DataLoader(
            _Files(paths, transform), batch_size=BATCH, num_workers=workers
        )
        kind = torch.device(device).type
        with (
            torch.inference_mode(),
            torch.autocast(kind, dtype=torch.bfloat16, enabled=autocast),
        ):
            return np.concatenate([model(batch.to(device)).float().cpu() for batch in loader])

    return extract


def timm_recipe(network: str, weights: str, *, workers: int = 0, device: str = "cpu") -> Extract:
    """timm's own reader, transforms and loader, ``num_classes=0``, as in its documentation."""
    import timm
    from timm.data import create_loader, resolve_data_config

    model = timm.create_model(network, pretrained=False, num_classes=0)
    _load_without_head(model, weights)
    model = model.eval().to(device)
    config = resolve_data_config({}, model=model)

    def extract(paths: Sequence[str]) -> np.ndarray:
        loader = create_loader(
            _TimmFiles(paths),
            input_size=config["input_size"],
            batch_size=BATCH,
            is_training=False,
            use_prefetcher=False,
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
            crop_pct=config["crop_pct"],
            num_workers=workers,
            persistent_workers=False,
            device=torch.device(device),
        )
        with torch.inference_mode():
            return np.concatenate([model(batch.to(device)).cpu() for batch, _ in loader])

    return extract


class _TimmFiles(torch.utils.data.Dataset):
    """A list of files in the shape of timm's ImageDataset, whose loader sets ``transform``."""

    transform: Callable

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.open(self.paths[i]).convert("RGB")), -1


def _load_without_head(model: torch.nn.Module, weights: str) -> None:
    tensors = torch.load(weights, weights_only=True)
    missing, _ = model.load_state_dict(tensors, strict=False)
    if missing:
        raise RuntimeError(f"the architecture is another one: {missing}")


def _weights_from(file: str) -> None:
    """torchvision's downloads become this file, for the life of the process."""
    from torchvision.models._api import WeightsEnum

    WeightsEnum.get_state_dict = lambda self, *args, **kwargs: torch.load(file, weights_only=True)


def img2vec(network: str, weights: str) -> Extract:
    """img2vec_pytorch on lists of Pillow images, a batch at a time (one list is one batch)."""
    from img2vec_pytorch import Img2Vec
    from PIL import Image

    _weights_from(weights)
    model = Img2Vec(cuda=False, model=network)

    def extract(paths: Sequence[str]) -> np.ndarray:
        return np.concatenate(
            [
                model.get_vec([Image.open(path).convert("RGB") for path in paths[i : i + BATCH]])
                for i in range(0, len(paths), BATCH)
            ]
        )

    return extract


def embetter(network: str, weights: str) -> Extract:
    """embetter's pipeline from its documentation: ImageLoader, TimmEncoder."""
    import timm
    from embetter.vision import ImageLoader, TimmEncoder
    from sklearn.pipeline import make_pipeline

    create = timm.create_model

    def create_model(name: str, *, pretrained: bool = False, **settings: Any) -> torch.nn.Module:
        model = create(name, pretrained=False, **settings)
        _load_without_head(model, weights)
        return model

    with mock.patch("timm.create_model", create_model):
        encoder = TimmEncoder(network)
    return make_pipeline(ImageLoader(), encoder).fit_transform  # its fits do nothing


class _Absent:
    """A finder of packages that thingsvision imports at the top and does not use with torch."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        module = mock.MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module: Any) -> None:
        pass


def thingsvision(network: str, weights: str) -> Extract:
    """thingsvision's torchvision extractor at ``avgpool``, with its own Dataset and DataLoader.

    TensorFlow is replaced by a stand-in, for which its torch half has no use (it saves it memory);
    numpy 2 gets back a name that numpy 1 had.
    """
    vars(np).setdefault("AxisError", np.exceptions.AxisError)
    sys.meta_path.insert(0, _Absent("tensorflow", "keras", "dreamsim"))
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    _weights_from(weights)
    extractor = get_extractor(
        model_name=network, source="torchvision", device="cpu", pretrained=True
    )

    def extract(paths: Sequence[str]) -> np.ndarray:
        folder = Path(paths[0]).parent
        dataset = ImageDataset(
            root=str(folder),
            out_path=str(folder.parent / "thingsvision"),
            backend=extractor.get_backend(),
            file_names=[Path(path).name for path in paths],
            transforms=extractor.get_transformations(),
        )
        batches = DataLoader(dataset, batch_size=BATCH, backend=extractor.get_backend())
        return extractor.extract_features(
            batches=batches, module_name="avgpool", flatten_acts=True, output_type="ndarray"
        )

    return extract


PEERS: dict[str, Callable[..., Extract]] = {
    "torchvision": torchvision_recipe,
    "timm": timm_recipe,
    "img2vec_pytorch": img2vec,
    "embetter": embetter,
    "thingsvision": thingsvision,
}
# Peers with a DataLoader: tried with each number of workers, the best one counts.
WITH_WORKERS = ("torchvision", "timm")


# --- one process ------------------------------------------------------------------------------


def measure(
    contestant: str,
    settings: dict[str, Any],
    network: str,
    weights: str,
    paths: list[str],
    passes: int,
    device: str,
) -> dict[str, Any]:
    """Time a contestant over ``paths``, warm; sktransfer also against its own bound."""
    n, spy = len(paths), None
    if contestant == "sktransfer":
        spy = Spy()
        own = sktransfer_extractor(network, weights, cache=False, device=device, **settings)
        extract: Extract = own.fit(paths[:1]).transform
    else:
        if device != "cpu":
            settings = {**settings, "device": device}
        extract = PEERS[contestant](network, weights, **settings)
    # Two batch sizes are met: the usual one and that of the rest. Both are warmed.
    extract(paths[: min(n, BATCH + n % BATCH)])
    times, used, bounds, peak = [], [], [], 0.0
    for _ in range(passes):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start, busy = time.perf_counter(), cpu_seconds()
        rows = np.asarray(extract(paths))
        times.append(time.perf_counter() - start)
        used.append(cpu_seconds() - busy)
        peak = peak or peak_memory_mb()
        if rows.shape[0] != n:
            raise RuntimeError(f"{rows.shape[0]} rows for {n} images")
        if spy is not None:
            bounds.append(bound(spy, n, on_cpu=device == "cpu"))
    result: dict[str, Any] = {
        "seconds": median(times),
        "cpu_seconds": median(used),
        "peak_mb": peak,
        "first_rows": rows[:8].astype(float).tolist(),
    }
    if bounds:
        result |= {key: median([each[key] for each in bounds]) for key in bounds[0]}
        result["of_bound"] = median(
            [each["bound_s"] / took for each, took in zip(bounds, times, strict=True)]
        )
    return result


if __name__ == "__main__":
    answer(measure)
