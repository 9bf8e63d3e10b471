"""The recipes that ``quality.py`` compares: from a split to probabilities of its test rows.

Each takes a :class:`Job` and returns an array (rows to test on, classes). What is frozen comes from
the store; networks of the plain torch recipes read each image again. It must not know results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import torchvision_model
from _quality_sets import ImageSet
from finetune import BACKBONES, LAST_STAGE, pretrained
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.functional import cross_entropy

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor

NETWORKS = ("mobilenet_v2", "efficientnet_lite0", "squeezenet1_0", "resnet18")
# What TransferClassifier is given where a cell is not of one network.
TOGETHER = "four networks"
# Of the recipes in plain torch, which train through the whole network.
PEER_NETWORKS = ("resnet18", "mobilenet_v2")
# Of the published "frozen" probe.
PROBE_EPOCHS, PATIENCE = 100, 5


@dataclass
class Job:
    """One fit: rows of a set to train and test on, with one network."""

    images: ImageSet
    network: str
    train: np.ndarray
    test: np.ndarray
    seed: int
    shared: Path
    store: Path

    @property
    def y(self) -> np.ndarray:
        return self.images.y[self.train]

    @property
    def n_classes(self) -> int:
        return int(self.images.y.max()) + 1

    def rows(self, which: np.ndarray) -> Any:
        return self.images.X[which]

    @property
    def groups(self) -> np.ndarray | None:
        return None if self.images.groups is None else self.images.groups[self.train]


def network_settings(job: Job, name: str) -> dict[str, Any]:
    """Weights and preparation of a network, as estimators of sktransfer take them."""
    settings = pretrained(job.shared, name) if name in BACKBONES else {}
    if job.images.image_size is not None:
        settings |= {"preprocessing": "resize", "image_size": job.images.image_size}
    return settings


# --- frozen networks ----------------------------------------------------------------------------


_FEATURES: dict[tuple[str, str, Any], np.ndarray] = {}


def features(job: Job, layer: Any) -> np.ndarray:
    """What the frozen network says of all images of the set, computed once."""
    key = (job.images.name, job.network, layer)
    if key not in _FEATURES:
        if len(_FEATURES) > 8:
            _FEATURES.clear()
        settings = network_settings(job, job.network)
        extractor = PretrainedFeatureExtractor(
            job.network, layer=layer, cache=job.store, **settings
        )
        _FEATURES[key] = extractor.fit_transform(job.images.X)
    return _FEATURES[key]


def readme_line(job: Job) -> np.ndarray:
    """The pipeline of version 0.1's README: no scaler, C=1."""
    clf = LogisticRegression(max_iter=1000)
    return _fitted(clf, features(job, None), job)


def embedding(job: Job) -> np.ndarray:
    return _fitted(probe(), features(job, None).astype(float), job)


def all_layers(job: Job) -> np.ndarray:
    return _fitted(probe(), features(job, "all").astype(float), job)


def probe() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000, tol=1e-6))


def _fitted(clf: Any, F: np.ndarray, job: Job) -> np.ndarray:
    if job.y.ndim == 2:
        clf = OneVsRestClassifier(clf)
    elif isinstance(clf, LogisticRegression):
        return clf.fit(F[job.train], job.y).predict_proba(F[job.test])
    # The penalty keeps the solution in the span of the rows: the same in fewer columns.
    scaler = StandardScaler().fit(F[job.train])
    train, test = scaler.transform(F[job.train]), scaler.transform(F[job.test])
    if job.y.ndim == 1 and len(train) < train.shape[1]:
        values, vectors = np.linalg.eigh(train @ train.T)
        kept = values > 1e-10 * values.max()
        basis = train.T @ (vectors[:, kept] / np.sqrt(values[kept]))
        train, test = train @ basis, test @ basis
        clf = clf[-1]
    elif job.y.ndim == 1:
        clf = clf[-1]
    return clf.fit(train, job.y).predict_proba(test)


def pixels(job: Job) -> np.ndarray:
    """No network: 48 x 48 pixels."""
    F = _thumbnails(job)
    n = min(50, len(job.train) - 1)
    clf = make_pipeline(
        PCA(n, whiten=True, random_state=job.seed), LogisticRegression(max_iter=1000)
    )
    if job.y.ndim == 2:
        clf = OneVsRestClassifier(clf)
    return clf.fit(F[job.train], job.y).predict_proba(F[job.test])


def _thumbnails(job: Job) -> np.ndarray:
    key = (job.images.name, "pixels", 48)
    if key not in _FEATURES:
        small = [np.asarray(opened(x).resize((48, 48))).ravel() / 255 for x in job.images.X]
        _FEATURES[key] = np.array(small, dtype=np.float32)
    return _FEATURES[key]


def opened(x: Any) -> Image.Image:
    image = Image.fromarray(x) if isinstance(x, np.ndarray) else Image.open(x)
    with image:
        return image.convert("RGB")


# --- sktransfer's estimators --------------------------------------------------------------------


def finetune(job: Job, **params: Any) -> np.ndarray:
    """FineTuneClassifier as it is when nothing is said."""
    clf = FineTuneClassifier(
        job.network,
        cache=job.store,
        random_state=job.seed,
        **network_settings(job, job.network),
        **params,
    )
    clf.fit(job.rows(job.train), job.y, groups=job.groups)
    return clf.predict_proba(job.rows(job.test))


def finetune_half(job: Job) -> np.ndarray:
    """The same, but training is kept half way, whether it seems to help or not."""
    return finetune(job, weight_interpolation=0.5)


def finetune_whole(job: Job) -> np.ndarray:
    """The same, but what was trained is kept as it is."""
    return finetune(job, weight_interpolation=1.0)


def finetune_before(job: Job) -> np.ndarray:
    """FineTuneClassifier with the defaults of version 0.1."""
    return finetune(job, **LAST_STAGE)


def transfer(job: Job, time_budget: float | None = None) -> np.ndarray:
    """TransferClassifier, given the networks and nothing else."""
    from sktransfer import TransferClassifier

    names = NETWORKS if job.network == TOGETHER else (job.network,)
    networks = {
        name: PretrainedFeatureExtractor(name, **network_settings(job, name)) for name in names
    }
    clf = TransferClassifier(
        networks, time_budget=time_budget, cache=job.store, random_state=job.seed
    )
    clf.fit(job.rows(job.train), job.y, groups=job.groups)
    return clf.predict_proba(job.rows(job.test))


# --- plain torch --------------------------------------------------------------------------------


_DECODED: dict[tuple[str, int | None], torch.Tensor] = {}


def decoded(job: Job) -> torch.Tensor:
    """All images of the set as the network's transform crops them, uint8: decoded once."""
    from torchvision.transforms.v2 import functional

    key = (job.images.name, job.images.image_size)
    if key not in _DECODED:
        _DECODED.clear()
        side = job.images.image_size
        tensors = []
        for x in job.images.X:
            image = opened(x)
            if side is None:
                image = functional.center_crop(functional.resize(image, [256]), [224])
            else:
                image = functional.resize(image, [side, side])
            tensors.append(functional.pil_to_tensor(image))
        _DECODED[key] = torch.stack(tensors)
    return _DECODED[key]


def batch_of(job: Job, rows: np.ndarray) -> torch.Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return (decoded(job)[torch.as_tensor(rows)].float() / 255 - mean) / deviation


def torchvision_network(job: Job) -> nn.Module:
    """The network with its ImageNet weights."""
    return torchvision_model(job.network, pretrained(job.shared, job.network)["weights"])


def classifier_of(network: nn.Module) -> str:
    """Name of its last linear layer."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


def replaced(network: nn.Module, n_classes: int) -> nn.Linear:
    """A new last linear layer, put into the network."""
    name = classifier_of(network)
    new = nn.Linear(network.get_submodule(name).in_features, n_classes)
    network.set_submodule(name, new)
    return new


def run_epochs(
    job: Job,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    batch_size: int,
    scheduler: Any = None,
) -> None:
    rng = np.random.default_rng(job.seed)
    y = torch.as_tensor(job.images.y)
    network.train()
    for _ in range(epochs):
        order = rng.permutation(job.train)
        for batch in np.array_split(order, max(1, round(len(order) / batch_size))):
            optimizer.zero_grad()
            cross_entropy(network(batch_of(job, batch)), y[torch.as_tensor(batch)]).backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()


def batch_size_of(job: Job, usual: int) -> int:
    """The usual size; 8 where that would be few batches, as whoever has few images sets it."""
    return usual if len(job.train) >= 4 * usual or len(job.train) >= 128 else 8


def steps_of(job: Job, epochs: int, batch_size: int) -> int:
    return epochs * max(1, round(len(job.train) / batch_size))


@torch.no_grad()
def predicted(job: Job, network: nn.Module, rows: np.ndarray) -> np.ndarray:
    network.eval()
    parts = [network(batch_of(job, rows[i : i + 64])) for i in range(0, len(rows), 64)]
    return torch.cat(parts).double().softmax(1).numpy()


class ConcatPool(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


def fastai_like(job: Job) -> np.ndarray:
    """``vision_learner(...).fine_tune(4)``: one epoch of the head, then four of everything.

    Its head, one-cycle schedules, discriminative learning rates and AdamW, from its sources.
    """
    torch.manual_seed(job.seed)
    network = torchvision_network(job)
    stages = [m for name, m in network.named_children() if name not in ("avgpool", "fc")]
    if job.network == "mobilenet_v2":
        stages = list(network.features)
    body = nn.Sequential(*stages)
    width = network.get_submodule(classifier_of(network)).in_features
    head = nn.Sequential(
        *(ConcatPool(), nn.BatchNorm1d(2 * width), nn.Dropout(0.25)),
        *(nn.Linear(2 * width, 512, bias=False), nn.ReLU()),
        *(nn.BatchNorm1d(512), nn.Dropout(0.5), nn.Linear(512, job.n_classes, bias=False)),
    )
    for module in head:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    whole = nn.Sequential(body, head)
    norms = [p for m in body.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    body.requires_grad_(False)
    for parameter in norms:
        parameter.requires_grad_(True)
    # First the head and, as fastai has it, BatchNorm's gains and biases; then everything, with
    # lower rates further down.
    half = len(stages) // 2
    groups = [stages[:half], stages[half:], [head]]
    lowest, highest = 1e-5, 1e-3
    batch_size = batch_size_of(job, 64)
    for epochs, rates, share in (
        (1, [2e-3] * 3, 0.99),
        (4, [lowest, (lowest * highest) ** 0.5, highest], 0.3),
    ):
        parts = [
            {"params": [p for m in group for p in m.parameters() if p.requires_grad], "lr": rate}
            for group, rate in zip(groups, rates, strict=True)
        ]
        optimizer = torch.optim.AdamW(parts, betas=(0.95, 0.99), eps=1e-5, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=rates,
            total_steps=steps_of(job, epochs, batch_size) + 1,
            pct_start=share,
            div_factor=25 if epochs == 1 else 5,
            final_div_factor=1e5,
        )
        run_epochs(job, whole, optimizer, epochs, batch_size, schedule)
        body.requires_grad_(True)
    return predicted(job, whole, job.test)


def skorch_like(job: Job) -> np.ndarray:
    """All but the last stage frozen by ``requires_grad``; Adam, 1e-3, batches of 32.

    Five epochs, and 50 steps at least.
    """
    torch.manual_seed(job.seed)
    network = torchvision_network(job).requires_grad_(False)
    last = {"resnet18": "layer4", "mobilenet_v2": "features.18"}[job.network]
    network.get_submodule(last).requires_grad_(True)
    replaced(network, job.n_classes)
    trained = [p for p in network.parameters() if p.requires_grad]
    batch_size = batch_size_of(job, 32)
    epochs = max(5, -(-50 // steps_of(job, 1, batch_size)))
    run_epochs(job, network, torch.optim.Adam(trained, lr=1e-3), epochs, batch_size)
    return predicted(job, network, job.test)


def drifting(job: Job) -> np.ndarray:
    """A "frozen" probe as published for MedMNIST+: no gradients, but ``network.train()``.

    BatchNorm normalizes by the batch while the head learns, and its running statistics drift.
    AdamW, 1e-4, batches of 64, the epoch of the lowest loss on held-out rows, patience 5.
    """
    torch.manual_seed(job.seed)
    network = torchvision_network(job).requires_grad_(False)
    head = replaced(network, job.n_classes)
    train, held_out = _held_out(job)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4)
    y = torch.as_tensor(job.images.y)
    best, since, proba = np.inf, 0, np.zeros(0)
    rng = np.random.default_rng(job.seed)
    for _ in range(PROBE_EPOCHS):
        network.train()
        for batch in np.array_split(rng.permutation(train), max(1, len(train) // 64)):
            optimizer.zero_grad()
            cross_entropy(network(batch_of(job, batch)), y[torch.as_tensor(batch)]).backward()
            optimizer.step()
        loss = _loss(predicted(job, network, held_out), job.images.y[held_out])
        since += 1
        if loss < best:
            best, since, proba = loss, 0, predicted(job, network, job.test)
        if since >= PATIENCE:
            break
    return proba


def frozen_eval(job: Job) -> np.ndarray:
    """The same with ``network.eval()``: the same optimizer and epochs on what stays as it was."""
    torch.manual_seed(job.seed)
    train, held_out = _held_out(job)
    F = torch.as_tensor(features(job, None)).float()
    y = torch.as_tensor(job.images.y)
    head = nn.Linear(F.shape[1], job.n_classes)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4)
    best, since, proba = np.inf, 0, np.zeros(0)
    rng = np.random.default_rng(job.seed)
    for _ in range(PROBE_EPOCHS):
        for batch in np.array_split(rng.permutation(train), max(1, len(train) // 64)):
            optimizer.zero_grad()
            cross_entropy(head(F[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = _loss(head(F[held_out]).double().softmax(1).numpy(), job.images.y[held_out])
            since += 1
            if loss < best:
                best, since = loss, 0
                proba = head(F[job.test]).double().softmax(1).numpy()
        if since >= PATIENCE:
            break
    return proba


def _held_out(job: Job) -> tuple[np.ndarray, np.ndarray]:
    from sktransfer.model_selection import grouped_train_test_split

    groups = job.groups if job.groups is not None else np.arange(len(job.train))
    return grouped_train_test_split(
        job.train, stratify=job.y, groups=groups, test_size=0.1, random_state=job.seed
    )


def _loss(proba: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(np.maximum(proba[np.arange(len(y)), y], 1e-12)).mean())


# --- all of them --------------------------------------------------------------------------------


@dataclass
class Recipe:
    """What is run; ``costly`` ones run on the first fold of each seed."""

    run: Callable[[Job], np.ndarray]
    networks: tuple[str, ...] = NETWORKS
    costly: bool = False
    # Only this kind runs where networks see images small.
    drift: bool = False
    # Features to have at hand before the clock starts.
    layers: tuple[Any, ...] = ()


def _budget(seconds: float) -> Recipe:
    run = functools.partial(transfer, time_budget=seconds)
    return Recipe(run, (TOGETHER,), costly=True)


RECIPES: dict[str, Recipe] = {
    "pixels": Recipe(pixels, ("no network",)),
    "readme_line": Recipe(readme_line, layers=(None,)),
    "embedding": Recipe(embedding, layers=(None,), drift=True),
    "all_layers": Recipe(all_layers, layers=("all",), drift=True),
    "transfer": Recipe(transfer, (TOGETHER, *NETWORKS)),
    "finetune": Recipe(finetune, costly=True),
    "finetune_half": Recipe(finetune_half, costly=True),
    "finetune_whole": Recipe(finetune_whole, costly=True),
    "finetune_before": Recipe(finetune_before, costly=True),
    "transfer_30": _budget(30),
    "transfer_300": _budget(300),
    "frozen_eval": Recipe(frozen_eval, ("resnet18",), layers=(None,), drift=True),
    "drifting": Recipe(drifting, ("resnet18",), drift=True),
    "skorch_like": Recipe(skorch_like, PEER_NETWORKS, costly=True),
    "fastai_like": Recipe(fastai_like, PEER_NETWORKS, costly=True),
}
