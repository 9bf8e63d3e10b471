"""``engine`` and ``precision`` of the extractor: the same numbers, and never another one's row."""

from __future__ import annotations

import itertools
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sktransfer import PretrainedFeatureExtractor, cache_info, clear_cache
from sktransfer._frozen import REGISTRY, TOLERANCES, _engines, _network
from sktransfer.exceptions import MissingDependencyError

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None,
    reason='openvino is not installed: pip install "sktransfer[fast]"',
)


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 40, 56, 3), dtype=np.uint8)


def small(**parameters):
    settings = {"weights": None, "image_size": 32, **parameters}
    return PretrainedFeatureExtractor("squeezenet1_1", **settings)


@pytest.fixture
def converted(monkeypatch):
    """Precisions of the networks that OpenVINO was given, in this test."""
    precisions = []

    class Watched(_network.OpenVinoEngine):
        def __init__(self, module, shape, precision):
            super().__init__(module, shape, precision)
            precisions.append(precision)

    REGISTRY.clear()
    monkeypatch.setattr(_network, "OpenVinoEngine", Watched)
    yield precisions
    REGISTRY.clear()


def apart(a, b):
    """Largest relative L2 distance of a row."""
    return (np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max()


@needs_openvino
@pytest.mark.parametrize("precision", list(TOLERANCES))
@pytest.mark.parametrize("layer", [None, [2, 8]])
def test_openvino_agrees_with_torch_within_the_stated_tolerance(precision, layer, converted):
    X = images(5)
    exact = small(engine="torch", cache=False, layer=layer).fit_transform(X)
    try:
        rows = small(
            engine="openvino", precision=precision, cache=False, layer=layer
        ).fit_transform(X)
    except ValueError as error:  # a processor without bfloat16 arithmetic
        assert precision == "bfloat16"
        pytest.skip(str(error))
    assert rows.dtype == np.float32
    assert converted
    assert apart(rows, exact) < TOLERANCES[precision]


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float64", 1e-5), ("bfloat16", 3e-2), ("float16", 5e-3)]
)
def test_torchs_other_precisions_keep_their_stated_tolerance(precision, tolerance):
    X = images(5)
    exact = small(engine="torch", cache=False).fit_transform(X)
    rows = small(engine="torch", precision=precision, cache=False).fit_transform(X)
    assert rows.dtype == (np.float64 if precision == "float64" else np.float32)
    assert 0 < apart(rows, exact) < tolerance


@needs_openvino
def test_auto_is_openvino_where_it_agrees(converted):
    X = images(4)
    small(engine="torch", cache=False).fit_transform(X)
    assert not converted
    rows = small(cache=False).fit_transform(X)
    assert converted == ["float32"]
    assert np.array_equal(rows, small(engine="openvino", cache=False).fit_transform(X))


def test_auto_is_torch_without_openvino_and_an_explicit_engine_names_the_extra(monkeypatch):
    monkeypatch.setattr(_engines, "_is_installed", lambda module: False)
    X = images(4)
    rows = small(cache=False).fit_transform(X)
    assert np.array_equal(rows, small(engine="torch", cache=False).fit_transform(X))
    with pytest.raises(MissingDependencyError, match=r"sktransfer\[fast\]"):
        small(engine="openvino").fit(X)


def test_what_openvino_lacks_is_an_error_at_fit(monkeypatch):
    monkeypatch.setattr(_engines, "_is_installed", lambda module: True)
    with pytest.raises(ValueError, match="'float32' or 'bfloat16'; got 'float64'"):
        small(engine="openvino", precision="float64").fit(images(1))
    with pytest.raises(ValueError, match="engine"):
        small(engine="onnx").fit(images(1))


@needs_openvino
def test_plain_import_and_the_torch_engine_leave_openvino_alone():
    code = (
        "import sys, numpy as np\n"
        "from sktransfer import PretrainedFeatureExtractor as P\n"
        "X = np.zeros((1, 40, 40, 3), np.uint8)\n"
        "P('squeezenet1_1', weights=None, image_size=32, engine='torch').fit_transform(X)\n"
        "assert 'openvino' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@needs_openvino
def test_engines_share_no_rows_and_a_grid_over_them_runs_each_once():
    clear_cache()
    X, y = images(12), np.arange(12) % 2
    pipe = Pipeline([("feat", small()), ("clf", LogisticRegression())])
    grid = {"feat__engine": ["torch", "openvino"], "clf__C": [0.1, 1.0]}
    GridSearchCV(pipe, grid, cv=3).fit(X, y)
    assert cache_info().n_rows == 24
    again = small(engine="torch").fit_transform(X)
    assert np.array_equal(again, small(engine="torch", cache=False).fit_transform(X))


CHOICES = {
    "random_state": [0, 1],
    "layer": [None, 2, [2, 8]],
    "pooling": ["avg", "max", "gem"],
    "preprocessing": ["weights", "resize", "pad"],
    "image_size": [32, 48],
    "precision": ["float32", "float64", "bfloat16"],
    "engine": ["torch", "auto"],
    "value_range": [None, (0, 300)],
}


@pytest.mark.parametrize("tier", ["memory", "directory"])
def test_no_sequence_of_parameter_changes_returns_a_stale_row(tier, tmp_path):
    """From any setting to its neighbors and back: always what a fresh run gives, bit for bit."""
    rng = np.random.default_rng(7)
    X = images(3, seed=5)
    cache = True if tier == "memory" else tmp_path / "store"
    walker = small(cache=cache)
    seen = {}
    for _ in range(40):
        name = rng.choice(list(CHOICES))
        walker.set_params(**{name: CHOICES[name][rng.integers(len(CHOICES[name]))]})
        rows = walker.fit_transform(X)
        fresh = clone(walker).set_params(cache=False).fit_transform(X)
        assert np.array_equal(rows, fresh), walker.get_params()
        seen[str(walker.get_params())] = rows
    # The comparison can fail: settings differ in their numbers.
    different = [not np.array_equal(a, b) for a, b in itertools.combinations(seen.values(), 2)]
    assert len(seen) > 15
    assert np.mean(different) > 0.95
