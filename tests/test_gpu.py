"""What holds on a GPU: `pytest -m gpu`. Without one, the same tests run small on the CPU.

`SKTRANSFER_TEST_DEVICE=cpu` runs them small where there is one, `cuda:1` on another one.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, clear_cache
from sktransfer._base import resolve_device
from sktransfer._frozen import _device
from sktransfer._images import make_preprocessing

pytestmark = pytest.mark.gpu

DEVICE = os.environ.get("SKTRANSFER_TEST_DEVICE") or (
    "cuda" if torch.cuda.is_available() else "cpu"
)
HAS_GPU = DEVICE.startswith("cuda")
SIDE = 224 if HAS_GPU else 32
N_IMAGES = 96 if HAS_GPU else 8
needs_memory_of_a_gpu = pytest.mark.skipif(
    not HAS_GPU, reason="allocates a GPU's memory, and torch finds no CUDA device"
)

# Largest relative L2 distance of a row from float64 on the CPU. Images are normalized in float32.
TOLERANCES = {"float64": 1e-6, "float32": 1e-5, "tf32": 1e-3, "bfloat16": 3e-2, "float16": 3e-3}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (N_IMAGES, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)


@pytest.fixture(scope="module")
def labels():
    return np.arange(N_IMAGES) % 2


@pytest.fixture(autouse=True)
def fresh():
    clear_cache()
    yield
    clear_cache()
    gc.collect()
    if HAS_GPU:
        torch.cuda.empty_cache()


def extractor(name="resnet18", **params):
    given = {"weights": None, "image_size": SIDE, "cache": False, "device": DEVICE}
    return PretrainedFeatureExtractor(name, **{**given, **params})


def furthest(rows, reference):
    apart = np.linalg.norm(rows.astype(float) - reference, axis=1)
    return float((apart / np.linalg.norm(reference, axis=1)).max())


@pytest.fixture(params=["set_float32_matmul_precision", "fp32_precision"])
def reduced_products(request):
    """Let float32 products be rounded, as a user may: embeddings in float32 must not notice."""
    if request.param == "set_float32_matmul_precision":
        torch.set_float32_matmul_precision("medium")
        yield
        left = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        assert left == "medium", "the caller's setting was changed"
        return
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has no fp32_precision")
    matmul = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [part.fp32_precision for part in matmul]
    for part, level in zip(matmul, ("tf32", "bf16"), strict=True):
        part.fp32_precision = level
    yield
    left = [part.fp32_precision for part in matmul]
    for part, level in zip(matmul, before, strict=True):
        part.fp32_precision = level
    assert left == ["tf32", "bf16"], "the caller's setting was changed"


# Random MobileNets underflow in float16: their activations fade from stage to stage.
NETWORKS = ["resnet18", "vgg11", "vit_b_32"] if HAS_GPU else ["resnet18"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_embeddings_agree_with_float64_on_the_cpu(images, reduced_products, name, precision):
    some = images[:8]
    size = {"image_size": None} if name == "vit_b_32" else {}
    exact = extractor(name, device="cpu", precision="float64", engine="torch", **size)
    reference = exact.fit_transform(some)
    rows = extractor(name, precision=precision, **size).fit_transform(some)
    assert furthest(rows, reference) < TOLERANCES[precision]


def test_stages_and_embedding_of_one_pass_agree_too(images, reduced_products):
    layers = ["layer1", "layer3", "layer4"]
    reference = extractor(
        layer=layers, device="cpu", precision="float64", engine="torch"
    ).fit_transform(images[:8])
    assert furthest(extractor(layer=layers).fit_transform(images[:8]), reference) < 1e-5


def test_rows_do_not_depend_on_the_batch(images):
    whole = extractor(batch_size=N_IMAGES).fit_transform(images)
    assert furthest(extractor(batch_size=5).fit_transform(images), whole) < 1e-5


def test_the_same_pass_gives_the_same_bits(images):
    first = extractor().fit_transform(images)
    np.testing.assert_array_equal(extractor().fit_transform(images), first)


@needs_memory_of_a_gpu
def test_a_batch_that_does_not_fit_is_halved_until_it_does(images):
    many = np.concatenate([images] * 8)
    many[np.arange(len(many)), 0, 0, 0] = np.arange(len(many)) % 256
    expected = extractor(batch_size=64).fit_transform(many)
    fitted = extractor(batch_size=len(many)).fit(many)
    fitted.transform(many[:1])  # the network is on the device
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + 600 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    try:
        with pytest.warns(RuntimeWarning, match="ran out of memory"):
            rows = fitted.transform(many)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert furthest(rows, expected) < 1e-5


@needs_memory_of_a_gpu
def test_a_training_step_that_does_not_fit_is_done_in_parts(images, labels):
    many, y = np.concatenate([images] * 4), np.concatenate([labels] * 4)
    clf = FineTuneClassifier(
        "resnet18",
        weights=None,
        image_size=SIDE,
        freeze_depth=0,
        max_epochs=1,
        batch_size=len(many),
        device=DEVICE,
        random_state=0,
    )
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(3 * 2**30 / total)
    try:
        with pytest.warns(RuntimeWarning, match="ran out of memory"):
            clf.fit(many, y)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.isfinite(clf.predict_proba(images)).all()


@pytest.fixture
def full_device():
    """Memory of the device taken by somebody else, all but 1.5 GB."""
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(DEVICE)
    taken = torch.empty(free - 1500 * 2**20, dtype=torch.uint8, device=DEVICE)
    yield taken
    del taken
    torch.cuda.empty_cache()


@needs_memory_of_a_gpu
def test_a_device_that_is_nearly_full_is_used_in_small_batches(images, labels, full_device):
    many = np.concatenate([images] * 10)
    many[np.arange(len(many)), 0, 0, 0] = np.arange(len(many)) % 256
    many[np.arange(len(many)), 0, 0, 1] = np.arange(len(many)) // 256
    expected = extractor(batch_size=32).fit_transform(many[:64])
    with pytest.warns(RuntimeWarning, match="ran out of memory"):
        rows = extractor(batch_size=len(many)).fit_transform(many)
    assert furthest(rows[:64], expected) < 1e-5
    clear_cache()
    clf = fine_tuned(freeze_depth=0, batch_size=240, max_epochs=1)
    with pytest.warns(RuntimeWarning, match="ran out of memory"):
        clf.fit(many[:240], np.arange(240) % 2)
    assert np.isfinite(clf.predict_proba(images)).all()


def test_two_estimators_share_one_network(images):
    name = "resnet50" if HAS_GPU else "resnet18"
    first, second = extractor(name).fit(images[:4]), extractor(name, layer="layer4")
    expected = first.transform(images[:4])
    gc.collect()
    before = torch.cuda.memory_allocated() if HAS_GPU else 0
    second.fit(images[:4])
    held = [each._frozen(each._found(), each._info).network() for each in (first, second)]
    np.testing.assert_allclose(second.transform(images[:4]), expected, rtol=1e-4, atol=1e-5)
    gc.collect()
    assert held[0].stages[0] is held[1].stages[0]
    if HAS_GPU:
        assert torch.cuda.memory_allocated() - before < 2**20


@needs_memory_of_a_gpu
def test_many_calls_leave_no_memory_behind(images):
    fitted = extractor().fit(images)
    fitted.transform(images[:16])
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        fitted.transform(images[:16])
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


@needs_memory_of_a_gpu
def test_many_fits_leave_no_memory_behind(images, labels):
    held = []
    for _ in range(5):
        fine_tuned(max_epochs=1).fit(images, labels).predict_proba(images)
        clear_cache()
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[1] + 2**20


@pytest.mark.skipif(not HAS_GPU, reason="page-locks memory, and torch finds no CUDA device")
def test_images_wait_for_the_device_in_page_locked_memory(images):
    preprocessing = make_preprocessing(
        crop_size=SIDE, resize_size=SIDE, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    planes = [image.transpose(2, 0, 1) for image in images[:4]]
    pinned, plain = preprocessing.stack(planes, pinned=True), preprocessing.stack(planes)
    assert pinned.is_pinned()
    assert not plain.is_pinned()
    assert pinned.dtype == torch.uint8
    assert torch.equal(pinned, plain)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_graph_computes_what_its_steps_do(images, monkeypatch, name, precision):
    """Eleven batches of one shape and a smaller one, of which the ninth on are replayed."""
    n = N_IMAGES - 1
    size = -(-n // 12)
    replayed, replay = [], _device._Graph.replay
    monkeypatch.setattr(_device._Graph, "replay", lambda *args: replayed.append(1) or replay(*args))
    settings = {"batch_size": size, "precision": precision, "layer": "all"}
    monkeypatch.setattr(_device, "GRAPH_AFTER", None)
    expected = extractor(name, **settings).fit_transform(images[:n])
    assert not replayed
    monkeypatch.setattr(_device, "GRAPH_AFTER", 2)
    rows = extractor(name, **settings).fit_transform(images[:n])
    assert furthest(rows, expected) < TOLERANCES[precision]
    assert len(replayed) == (max(0, n // size - 2) if HAS_GPU else 0)
    again = extractor(name, **{**settings, "batch_size": size + 1}).fit_transform(images[:n])
    assert furthest(again, expected) < TOLERANCES[precision]


@needs_memory_of_a_gpu
def test_a_graph_is_gone_with_its_call(images, monkeypatch):
    monkeypatch.setattr(_device, "GRAPH_AFTER", 1)
    fitted = extractor(batch_size=8).fit(images)
    fitted.transform(images)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(5):
        fitted.transform(images)
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 32 * 2**20


def test_threads_of_several_networks_and_precisions_do_not_mix(images):
    """Each alone, then all at once: the same numbers, and the process's switches as they were."""
    tf32 = torch.backends.cudnn.allow_tf32
    cases = [("resnet18", "float32"), ("resnet18", "tf32"), ("squeezenet1_1", "float32")]
    fitted = [extractor(name, precision=precision).fit(images) for name, precision in cases]
    alone = [each.transform(images) for each in fitted]
    with ThreadPoolExecutor(len(cases) * 2) as threads:
        found = list(threads.map(lambda each: each.transform(images), fitted * 2))
    for (_, precision), rows, expected in zip(cases * 2, found, alone * 2, strict=True):
        # TF32 gives way to whoever needs products in full.
        assert furthest(rows, expected) < (1e-5 if precision == "float32" else 2e-3)
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_auto_takes_the_gpu_and_an_index_names_one(images):
    expected = extractor().fit_transform(images[:4])
    names = ["auto", "cuda:0"] if HAS_GPU else ["auto"] * (not torch.cuda.is_available())
    for name in names:
        rows = extractor(device=name).fit_transform(images[:4])
        np.testing.assert_array_equal(rows, expected)
        assert resolve_device(name, "float32").startswith(DEVICE)


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(images, monkeypatch):
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"'cuda:0' is not available.*\(available: cpu"):
            extractor(device="cuda:0").fit(images[:2])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"'cuda:99' is not available.*cpu, cuda:0"):
        extractor(device="cuda:99").fit(images[:2])
    with pytest.raises(ValueError, match="torch device such as"):
        extractor(device="gpu").fit(images[:2])


def test_pickles_are_loaded_where_there_is_no_gpu(images, labels, tmp_path):
    own = extractor().fit(images[:4])
    clf = fine_tuned(max_epochs=1).fit(images[:8], labels[:8])
    expected = own.transform(images[:2]), clf.predict_proba(images[:2])
    (tmp_path / "both").write_bytes(pickle.dumps((own, clf)))
    np.savez(tmp_path / "data.npz", X=images[:2], rows=expected[0], proba=expected[1])
    code = f"""
import pickle, numpy as np, torch
assert not torch.cuda.is_available()
own, clf = pickle.load(open("both", "rb"))
data = np.load("data.npz")
if {HAS_GPU}:
    try:
        own.transform(data["X"])
    except ValueError as error:
        assert "is not available" in str(error) and "cpu" in str(error)
    else:
        raise AssertionError("computed on a device that is not there")
for each in (own, clf):
    each.set_params(device="cpu")
np.testing.assert_allclose(own.transform(data["X"]), data["rows"], rtol=1e-3, atol=1e-3)
np.testing.assert_allclose(clf.predict_proba(data["X"]), data["proba"], atol=2e-3)
"""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def fine_tuned(**params):
    given = {
        "weights": None,
        "image_size": SIDE,
        "freeze_depth": -1,
        "max_epochs": 2,
        "batch_size": 16,
        "device": DEVICE,
        "random_state": 0,
    }
    return FineTuneClassifier("resnet18", **{**given, **params})


@pytest.mark.parametrize("depth", ["all", -1, 0])
def test_the_same_seed_gives_the_same_bits(images, labels, depth):
    first = fine_tuned(freeze_depth=depth).fit(images, labels).predict_proba(images)
    second = fine_tuned(freeze_depth=depth).fit(images, labels).predict_proba(images)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_training_in_each_precision_learns(images, labels, precision):
    bright = images.copy()
    bright[labels == 1] //= 4
    clf = fine_tuned(precision=precision, augmentation="light").fit(bright, labels)
    proba = clf.predict_proba(bright)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert clf.score(bright, labels) > 0.8


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_training_takes_tf32_only_where_it_is_asked_for(images, labels, precision, monkeypatch):
    seen, convolve = set(), torch.nn.Conv2d._conv_forward

    def forward(self, *args):
        seen.add((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        return convolve(self, *args)

    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", forward)
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    clf = fine_tuned(precision=precision, max_epochs=1).fit(images, labels)
    clf.predict_proba(images[:2])
    full, allowed = (False, "highest"), (True, "high")
    assert seen - {before} == {allowed if precision == "tf32" and HAS_GPU else full}
    assert before == (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())


def test_frozen_stages_stay_what_they_were(images, labels):
    before = extractor(layer="layer3", random_state=0).fit_transform(images[:8])
    fine_tuned().fit(images, labels)
    after = extractor(layer="layer3", random_state=0).fit_transform(images[:8])
    np.testing.assert_array_equal(before, after)


def test_a_model_of_the_gpu_predicts_on_the_cpu(images, labels, tmp_path):
    clf = fine_tuned().fit(images, labels)
    expected = clf.predict_proba(images[:8])
    clf.save(tmp_path / "model.safetensors")
    moved = pickle.loads(pickle.dumps(clf)).set_params(device="cpu")
    loaded = FineTuneClassifier.load(tmp_path / "model.safetensors").set_params(device="cpu")
    np.testing.assert_allclose(moved.predict_proba(images[:8]), expected, atol=2e-3)
    np.testing.assert_allclose(loaded.predict_proba(images[:8]), expected, atol=2e-3)


def test_a_search_in_processes_puts_no_copies_of_a_network_on_the_gpu(images, labels):
    pipe = make_pipeline(extractor(cache=True), LogisticRegression(max_iter=500))
    search = GridSearchCV(pipe, {"logisticregression__C": [0.1, 1.0]}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        search.fit(images, labels)
    assert clone(search.best_estimator_).fit(images, labels).score(images, labels) > 0.5
