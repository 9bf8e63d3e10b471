"""Embeddings as tensors, for estimators that compute on the device: the numbers are numpy's."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import config_context
from sklearn.base import clone

from sktransfer import PretrainedFeatureExtractor, cache_info, clear_cache
from sktransfer.exceptions import FailedRowsWarning

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def extractor(**params):
    given = {"weights": None, "image_size": 32, "device": DEVICE, "cache": False}
    return PretrainedFeatureExtractor("squeezenet1_1", **{**given, **params})


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("params", [{}, {"layer": "all"}, {"precision": "float64"}])
def test_a_tensor_on_the_device_holds_the_numbers_of_the_array(X, params):
    expected = extractor(**params).fit_transform(X)
    found = extractor(**params, output="torch").fit_transform(X)
    assert isinstance(found, torch.Tensor)
    assert found.device.type == DEVICE
    assert not found.requires_grad
    np.testing.assert_array_equal(found.cpu().numpy(), expected)
    assert found.cpu().numpy().dtype == expected.dtype
    assert isinstance(extractor(**params, output="numpy").fit_transform(X), np.ndarray)


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_hits_of_the_store_are_on_the_device_too(X, kind, tmp_path):
    cache = True if kind == "memory" else tmp_path / "store"
    clear_cache()
    first = extractor(cache=cache).fit_transform(X)  # an array put it there
    hits = cache_info().hits
    found = extractor(cache=cache, output="torch").fit_transform(X)
    assert cache_info().hits - hits == len(X)
    assert found.device.type == DEVICE
    np.testing.assert_array_equal(found.cpu().numpy(), first)


def test_rows_that_cannot_be_read_are_nan_in_the_tensor(X, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(X[0]).save(path)
    own = extractor(output="torch", on_error="nan")
    with pytest.warns(FailedRowsWarning):
        found = own.fit_transform([str(path), str(tmp_path / "missing.png")])
    assert found.isnan().all(dim=1).tolist() == [False, True]
    assert own.failed_rows_["row"].tolist() == [1]


def test_clones_and_pickles_keep_the_output(X):
    fitted = extractor(output="torch").fit(X)
    again = pickle.loads(pickle.dumps(fitted))
    assert torch.equal(again.transform(X), fitted.transform(X))
    assert clone(fitted).output == "torch"


def test_a_pickle_from_before_gives_arrays(X):
    fitted = extractor().fit(X)
    del fitted.output
    again = pickle.loads(pickle.dumps(fitted))
    assert isinstance(again.transform(X), np.ndarray)
    assert again.get_params()["output"] == "auto"


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_a_tensor_and_a_data_frame_cannot_be_had_at_once(X, container):
    if container == "polars":
        pytest.importorskip("polars")
    own = extractor(output="torch").set_output(transform=container).fit(X)
    with pytest.raises(
        ValueError, match=rf"output='torch'.*transform='{container}'.*output='numpy'"
    ):
        own.transform(X)
    with config_context(transform_output=container), pytest.raises(ValueError, match="DataFrame"):
        extractor(output="torch").fit(X).transform(X)
    assert type(own.set_params(output="auto").transform(X)).__name__ == "DataFrame"


def test_dask_collections_are_refused_with_what_helps(X, tmp_path):
    frames = pytest.importorskip("dask.dataframe")
    import pandas as pd

    Image.fromarray(X[0]).save(tmp_path / "a.png")
    paths = pd.DataFrame({"path": [str(tmp_path / "a.png")] * 2})
    own = extractor(output="torch").fit(paths)
    with pytest.raises(ValueError, match=r"Dask.*output='numpy'"):
        own.transform(frames.from_pandas(paths, npartitions=1))


def test_an_unknown_output_is_refused(X):
    with pytest.raises(ValueError, match="'output' parameter"):
        extractor(output="jax").fit(X)


# scikit-learn dispatches only where SciPy does, which is decided when SciPy is imported.
IN_A_PROCESS = """
import warnings
import numpy as np, torch
from sklearn import config_context
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sktransfer import PretrainedFeatureExtractor, TransferClassifier

warnings.filterwarnings("ignore", message=".*will result in using the solver.*")
device = "cuda" if torch.cuda.is_available() else "cpu"
rng = np.random.default_rng(0)
X = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
X[20:] //= 2
y = np.array(["benign", "malignant"]).repeat(20)


def extractor(**params):
    given = {"weights": None, "image_size": 32, "device": device, "layer": "all"}
    return PretrainedFeatureExtractor("squeezenet1_1", **{**given, **params})


def heads():
    yield make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    yield make_pipeline(StandardScaler(), PCA(5, svd_solver="full"), LogisticRegression())
    yield make_pipeline(StandardScaler(), RidgeClassifierCV([1e2, 1e3]))


def scores(pipe):
    name = "predict_proba" if hasattr(pipe[-1][-1], "predict_proba") else "decision_function"
    found = getattr(pipe, name)(X[::2])
    return np.asarray(found.cpu() if isinstance(found, torch.Tensor) else found), found


for plain, tensors in zip(heads(), heads()):
    expected, _ = scores(make_pipeline(extractor(), plain).fit(X, y))
    with config_context(array_api_dispatch=True):
        pipe = make_pipeline(extractor(output="torch"), tensors).fit(X, y)
        found, raw = scores(pipe)
        assert isinstance(raw, torch.Tensor) and raw.device.type == device, type(raw)
        learned = pipe[-1][0].scale_
        assert isinstance(learned, torch.Tensor) and learned.device.type == device
        assert set(np.asarray(pipe.predict(X))) <= {"benign", "malignant"}
    np.testing.assert_allclose(found, expected, atol=1e-4)
    print(type(plain[-1]).__name__, np.abs(found - expected).max())

# scikit-learn's convention: images in a tensor give embeddings in one, on its device.
images = torch.from_numpy(X.transpose(0, 3, 1, 2).copy())
own = extractor().fit(images)
assert isinstance(own.transform(images), np.ndarray)
with config_context(array_api_dispatch=True):
    assert own.transform(images).device == images.device
    assert isinstance(own.transform(X), np.ndarray)
    assert isinstance(own.set_params(output="numpy").transform(images), np.ndarray)

# What takes embeddings itself does not mind.
clf = TransferClassifier(extractor(output="torch")).fit(X, y)
assert clf.predict_proba(X).shape == (40, 2)
"""
CHECKED = """
assert proba.shape == (len(X) - 100, 2) and isinstance(proba, torch.Tensor)
print("done")
"""


def example():
    """The script of the page on the extractor."""
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs" / "user_guide" / "extractor.rst").read_text(encoding="utf-8")
    _, found = page.split(":caption: SCIPY_ARRAY_API=1 python on_the_device.py\n")
    lines = itertools.takewhile(lambda line: not line or line.startswith("   "), found.split("\n"))
    return textwrap.dedent("\n".join(lines))


def test_pipelines_on_tensors_agree_with_numpy_and_stay_on_the_device():
    pytest.importorskip("sklearn", minversion="1.9")
    root = Path(__file__).resolve().parents[1]
    search = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS + example() + CHECKED],
        env={**os.environ, "SCIPY_ARRAY_API": "1", "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")
