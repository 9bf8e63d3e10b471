"""PretrainedFeatureExtractor by itself: cutting, pooling, policies, pickles."""

from __future__ import annotations

import pickle
import threading
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor
from sktransfer._backbones import load_backbone
from sktransfer._frozen import MEMORY_STORE, REGISTRY, NetworkInfo
from sktransfer.exceptions import (
    FailedRowsWarning,
    ImageDecodeError,
    UnknownBackboneError,
    UnknownStageError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from tests.counting import Counted


def images(n=6, side=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def small(backbone="resnet18", **parameters):
    return PretrainedFeatureExtractor(backbone, **{"weights": None, "image_size": 64, **parameters})


def plain_stage(name, index, X, side=64):
    """A stage's raw output, the plain way: unfolded modules one after the other."""
    backbone = load_backbone(name, weights=None, seed=0)
    own = PretrainedFeatureExtractor(name, weights=None, image_size=side)
    preprocessing = own._preprocessing_for(_info(backbone).input_spec)
    x = preprocessing.to_batch([preprocessing(Image.fromarray(image)) for image in X])
    with torch.inference_mode():
        for stage in backbone.stages[: index + 1]:
            x = stage.module(x)
    return x.numpy()


def _info(backbone):
    from sktransfer._frozen import NetworkInfo

    return NetworkInfo.of(backbone)


def relative(a, b):
    return (np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max()


# --- what comes out ---------------------------------------------------------------------------


def test_shape_dtype_and_names():
    X = images()
    extractor = small().fit(X)
    E = extractor.transform(X)
    assert E.shape == (6, 512)
    assert E.dtype == np.float32
    assert extractor.n_features_out_ == 512
    names = extractor.get_feature_names_out()
    assert names[0] == "resnet18_000"
    assert names[-1] == "resnet18_511"
    assert len(set(names)) == 512


@pytest.mark.parametrize("layer", ["layer2", 2, -3])
def test_a_stage_by_name_or_index(layer):
    X = images(3)
    extractor = small(layer=layer).fit(X)
    expected = plain_stage("resnet18", 2, X).mean((2, 3))
    assert relative(extractor.transform(X), expected) < 1e-5
    assert extractor.get_feature_names_out()[5] == "resnet18_layer2_005"


def test_several_stages_in_one_pass_side_by_side():
    X = images(3)
    both = small(layer=["layer1", "layer3"]).fit(X)
    E = both.transform(X)
    assert E.shape == (3, 64 + 256)
    assert np.array_equal(E[:, :64], small(layer="layer1").fit_transform(X))
    assert relative(E[:, 64:], small(layer="layer3", cache=False).fit_transform(X)) < 1e-6
    assert list(both.get_feature_names_out()[[0, 64]]) == [
        "resnet18_layer1_00",
        "resnet18_layer3_000",
    ]


@pytest.mark.parametrize(
    ("pooling", "oracle"),
    [
        ("max", lambda m: m.max((2, 3))),
        ("avgmax", lambda m: (m.max((2, 3)) + m.mean((2, 3))) / 2),
        ("gem", lambda m: np.cbrt((np.maximum(m, 1e-6) ** 3).mean((2, 3)))),
        ("flatten", lambda m: m.reshape(len(m), -1)),
    ],
)
@pytest.mark.parametrize("layer", ["layer4", None])
def test_poolings(pooling, oracle, layer):
    X = images(2)
    expected = oracle(plain_stage("resnet18", 4, X))
    assert relative(small(layer=layer, pooling=pooling).fit_transform(X), expected) < 1e-5


def test_what_lies_after_the_cut_is_neither_kept_nor_run():
    REGISTRY.clear()
    X = images(1)
    shallow = small("vgg11", layer=0, cache=False, engine="torch").fit(X)
    shallow.transform(X)
    (network,) = REGISTRY._networks.values()
    # The first convolution; the whole of VGG is half a gigabyte.
    assert network.n_bytes == 4 * 64 * (3 * 9 + 1)
    assert len(network.stages) == 1


def test_an_embedding_of_a_transformer_and_its_tokens():
    X = images(1)
    vit = {"backbone": "vit_b_32", "weights": None}
    own = PretrainedFeatureExtractor(**vit).fit(X)
    assert own.transform(X).shape == (1, 768)
    assert np.array_equal(
        own.transform(X), PretrainedFeatureExtractor(**vit, pooling="cls").fit_transform(X)
    )
    tokens = PretrainedFeatureExtractor(**vit, layer=-1, pooling="flatten").fit(X)
    assert tokens.n_features_out_ == 49 * 768
    # All layers: means over the patches of each stage, and the class token.
    every = PretrainedFeatureExtractor(**vit, layer="all").fit(X)
    E = every.transform(X)
    assert E.shape == (1, 8 * 768)
    assert relative(E[:, -768:], own.transform(X)) < 1e-6
    last = PretrainedFeatureExtractor(**vit, layer=-1).fit_transform(X)
    assert relative(E[:, -1536:-768], last) < 1e-6


def test_precisions_agree():
    X = images(4)
    reference = small(precision="float64").fit_transform(X)
    assert reference.dtype == np.float64
    for precision, tolerance in (("float32", 1e-5), ("bfloat16", 0.05), ("float16", 0.01)):
        E = small(precision=precision).fit_transform(X)
        assert E.dtype == np.float32
        assert 0 < relative(E, reference) < tolerance


@pytest.mark.parametrize("preprocessing", ["weights", "resize", "pad"])
def test_preprocessing_changes_what_is_seen(preprocessing):
    wide = np.zeros((1, 40, 120, 3), dtype=np.uint8)
    marked = wide.copy()
    marked[:, :, :10] = 255  # at the left edge, which the center crop never sees
    extractor = small(preprocessing=preprocessing).fit(wide)
    same = np.array_equal(extractor.transform(wide), extractor.transform(marked))
    assert same == (preprocessing == "weights")


def test_a_callable_prepares_images_and_is_called_once_each():
    calls = []

    def prepare(image):
        calls.append(image.size)
        return torch.zeros(3, 64, 64)

    E = small(preprocessing=prepare).fit_transform(images(3))
    assert np.array_equal(E[0], E[2])
    assert calls == [(40, 40)] * 3


def test_scaled_decoding_is_close_and_off_by_default(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth.resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=90)
    X = [tmp_path / "large.jpg"]
    plain = small().fit_transform(X)
    scaled = small(scaled_decoding=True).fit_transform(X)
    assert 0 < relative(scaled, plain) < 0.1
    assert np.array_equal(small(scaled_decoding=False).fit_transform(X), plain)


# --- the same numbers, whatever the circumstances ------------------------------------------------


def test_batch_size_order_and_duplicates_change_nothing():
    X = images(9)
    reference = small(batch_size=9, cache=False).fit_transform(X)
    order = np.random.default_rng(1).permutation(9)
    for batch_size in (1, 2, 5):
        extractor = small(batch_size=batch_size, cache=False).fit(X)
        assert relative(extractor.transform(X), reference) < 1e-5
        assert relative(extractor.transform(X[order]), reference[order]) < 1e-5
        twice = extractor.transform(X[[3, 3, 0, 3]])
        assert relative(twice, reference[[3, 3, 0, 3]]) < 1e-5
        assert np.array_equal(twice[0], twice[3])


def test_a_second_transform_is_read_from_memory():
    X = images(5, seed=77)
    extractor = small().fit(X)
    before = MEMORY_STORE.info()
    first = extractor.transform(X)
    second = clone(extractor).fit(X[:2]).transform(X)
    after = MEMORY_STORE.info()
    assert after.misses - before.misses == 5
    assert after.hits - before.hits == 5
    assert np.array_equal(first, second)


def test_cache_off_keeps_nothing():
    before = MEMORY_STORE.info()
    small(cache=False).fit_transform(images(3, seed=5))
    assert MEMORY_STORE.info() == before


@pytest.mark.parametrize(
    "change",
    [
        {"layer": "layer3"},
        {"pooling": "max"},
        {"image_size": 72},
        {"preprocessing": "pad"},
        {"precision": "bfloat16"},
        {"random_state": 1},
        {"backbone": "resnet34"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_result_changes_the_key(change):
    X = np.random.default_rng(2).integers(0, 256, (2, 50, 60, 3), dtype=np.uint8)
    reference = small().fit_transform(X)
    cached = small(**change).fit_transform(X)
    fresh = small(**change, cache=False).fit_transform(X)
    assert relative(cached, fresh) < 1e-6
    assert cached.shape != reference.shape or not np.allclose(cached, reference, rtol=1e-3)


# The parameters that enter the key, and those that cannot change a number. A parameter in neither
# list fails this test: decide, then extend `_fingerprints` or this list.
IN_KEY = {
    "backbone",
    "weights",
    "random_state",
    "layer",
    "pooling",
    "preprocessing",
    "image_size",
    "scaled_decoding",
    "precision",
    "calibration",
    "engine",
    "device",
}
IN_DIGEST = {"image_shape", "value_range", "dicom"}
WITHOUT_EFFECT = {
    *("batch_size", "cache", "on_error", "n_jobs", "store_weights", "verbose"),
    "output",  # the same numbers in another container
}


def test_every_parameter_is_either_in_the_key_or_without_effect():
    assert set(small().get_params()) == IN_KEY | IN_DIGEST | WITHOUT_EFFECT


def test_value_range_is_part_of_what_an_image_is():
    X = np.random.default_rng(3).integers(0, 17, (2, 64)).astype(float)
    a = small(value_range=(0, 16)).fit_transform(X)
    b = small(value_range=(0, 32)).fit_transform(X)
    assert not np.allclose(a, b)


def test_random_weights_follow_random_state_and_leave_torch_alone():
    X = images(2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = small(random_state=3, cache=False).fit_transform(X)
    assert torch.equal(torch.get_rng_state(), before)
    REGISTRY.clear()
    assert np.array_equal(a, small(random_state=3, cache=False).fit_transform(X))
    assert not np.allclose(a, small(random_state=4, cache=False).fit_transform(X))
    state = np.random.RandomState(0)
    one, two = (small(random_state=state).fit(X) for _ in range(2))
    assert one.reference_.seed != two.reference_.seed


def test_torchs_global_settings_do_not_matter():
    X = images(3)
    expected = small(cache=False).fit_transform(X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(small(cache=False).fit_transform(X), expected)
    REGISTRY.clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert np.array_equal(small(cache=False).fit_transform(X), expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_overflows_in_half_precision_is_computed_in_float32(tmp_path):
    X, weights = images(3), tmp_path / "large.pth"
    state = torchvision.models.resnet18().state_dict()
    state["bn1.weight"] *= 1e6
    torch.save(state, weights)
    half = PretrainedFeatureExtractor(
        "resnet18", weights=weights, image_size=64, precision="float16", cache=False
    ).fit(X)
    with pytest.warns(RuntimeWarning, match="do not fit float16"):
        E = half.transform(X)
    assert relative(E, half.set_params(precision="float32").transform(X)) < 1e-5


def test_fitting_in_one_thread_leaves_transforming_in_another_alone():
    X = images(4)
    extractor = small(cache=False).fit(X)
    expected = extractor.transform(X)
    stop, errors = threading.Event(), []

    def keep_transforming():
        try:
            while not stop.is_set():
                assert relative(extractor.transform(X), expected) < 1e-6
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=keep_transforming)
    thread.start()
    for name in ("mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5"):
        small(name, random_state=17).fit(X)
    stop.set()
    thread.join()
    assert errors == []


def test_what_is_in_the_store_needs_no_network():
    X = images(3, seed=9)
    extractor = small().fit(X)
    expected = extractor.transform(X)
    REGISTRY.clear()
    assert np.array_equal(extractor.transform(X), expected)
    assert len(REGISTRY) == 0


def test_clones_and_folds_share_one_network():
    REGISTRY.clear()
    X = images(2)
    for extractor in (small(), small(layer="layer2"), clone(small(batch_size=2))):
        extractor.fit_transform(X)
    assert len(REGISTRY) == 1


# --- all layers ----------------------------------------------------------------------------------


def test_all_layers_are_each_stage_and_the_embedding():
    X = images(3)
    every = small(layer="all").fit(X)
    E = every.transform(X)
    assert E.shape == (3, every.n_features_out_) == (3, 64 + 64 + 128 + 256 + 512)
    stages = ["maxpool", "layer1", "layer2", "layer3"]  # layer4, pooled, is the embedding
    for start, layer in zip(np.cumsum([0, 64, 64, 128, 256]), [*stages, None], strict=True):
        alone = small(layer=layer, cache=False).fit_transform(X)
        assert relative(E[:, start : start + alone.shape[1]], alone) < 1e-6
    assert np.array_equal(E, small(layer=[*stages, None]).fit_transform(X))
    names = every.get_feature_names_out()
    assert len(set(names)) == len(names) == E.shape[1]
    assert names[[0, 64, 256, 512, 1023]].tolist() == [
        *("resnet18_maxpool_00", "resnet18_layer1_00", "resnet18_layer3_000"),
        *("resnet18_000", "resnet18_511"),
    ]
    frame = clone(every).set_output(transform="pandas").fit_transform(X)
    assert frame.columns.tolist() == names.tolist()


def test_all_layers_take_one_pass_and_then_each_of_them_none(tmp_path):
    X, counted = images(5, seed=8), Counted(tmp_path / "log")
    every = small("squeezenet1_1", layer="all", image_size=32, preprocessing=counted)
    E = every.fit_transform(X)
    assert counted.n == 5
    grid = [
        clone(every).set_params(layer=layer).fit_transform(X)
        for layer in ("all", None, "features.5", ["features.8", None])
    ]
    assert np.array_equal(grid[0], E)
    assert np.array_equal(grid[1], E[:, -512:])
    assert counted.n == 5
    # And the other way round: what is in the store already is joined by the rest, in one pass.
    X, counted = images(4, seed=9), Counted(tmp_path / "other")
    every.set_params(preprocessing=counted)
    alone = clone(every).set_params(layer=None).fit_transform(X)
    assert relative(every.fit_transform(X)[:, -512:], alone) < 1e-6
    assert counted.n == 8


def test_another_pooling_of_all_layers_leaves_the_embedding_as_it_is():
    X = images(2)
    E = small(layer="all", pooling="max").fit_transform(X)
    assert E.shape == (2, 64 + 64 + 128 + 256 + 512 + 512)
    assert relative(E[:, -512:], small().fit_transform(X)) < 1e-6
    assert relative(E[:, -1024:-512], small(layer=-1, pooling="max").fit_transform(X)) < 1e-6
    for how, message in (("flatten", "millions of columns"), ("cls", "needs a class token")):
        with pytest.raises(ValueError, match=message):
            small(layer="all", pooling=how).fit(X)


def test_all_layers_do_not_depend_on_the_size_of_images():
    X = images(2)
    for side in (32, 96):
        every = small("densenet161", layer="all", image_size=side).fit(X)  # thinned out
        assert every._widths == (384, 768, 2112, 2208, 2208)
        assert every._info.stages[every._outputs[0].stage].name == "denseblock1"


def test_all_layers_of_a_module_of_ones_own_and_of_a_fine_tuned_network():
    X = images(8)
    own = [("stem", torch.nn.Conv2d(3, 4, 3, 2)), ("body", torch.nn.Conv2d(4, 6, 3, 2))]
    every = PretrainedFeatureExtractor(own, layer="all", image_size=32).fit(X)
    assert every.transform(X).shape == (8, 4 + 6)
    tuned = FineTuneClassifier(
        "squeezenet1_1", weights=None, image_size=32, freeze_depth="all", random_state=0
    ).fit(X, [0, 1] * 4)
    taken = PretrainedFeatureExtractor(FrozenEstimator(tuned), layer="all", image_size=32).fit(X)
    same = small("squeezenet1_1", layer="all", image_size=32).fit(X)
    assert taken._widths == same._widths
    assert relative(taken.transform(X), same.transform(X)) < 1e-6


def test_all_layers_of_weights_without_an_embedding_are_those_that_were_trained(monkeypatch):
    info = NetworkInfo.of
    monkeypatch.setattr(
        NetworkInfo, "of", staticmethod(lambda b: replace(info(b), embedding_trained=False))
    )
    REGISTRY.clear()
    X = images(1)
    every = small("alexnet", layer="all", cache=False).fit(X)
    assert every._widths == (64, 192, 384, 256, 256)
    assert np.isfinite(every.transform(X)).all()
    monkeypatch.undo()
    REGISTRY.clear()


@pytest.mark.parametrize("store_weights", [False, True])
def test_all_layers_survive_a_pickle(store_weights):
    X = images(2)
    every = small("squeezenet1_1", layer="all", image_size=32, store_weights=store_weights).fit(X)
    E = every.transform(X)
    again = pickle.loads(pickle.dumps(every.set_params(cache=False)))
    assert relative(again.transform(X), E) < 1e-6


# --- rows that cannot be read --------------------------------------------------------------------


@pytest.fixture
def some_broken(tmp_path):
    names = []
    for i, image in enumerate(images(4)):
        Image.fromarray(image).save(tmp_path / f"patient{i}.png")
        names.append(str(tmp_path / f"patient{i}.png"))
    (tmp_path / "patient1.png").write_bytes((tmp_path / "patient1.png").read_bytes()[:300])
    (tmp_path / "patient3.png").unlink()
    return pd.DataFrame({"scan": names})


def test_on_error_raise_names_row_and_file(some_broken):
    with pytest.raises(ImageDecodeError, match=r"row 1 \(patient1\.png\)"):
        small().fit(some_broken).transform(some_broken)


def test_on_error_nan_keeps_rows_in_place(some_broken):
    extractor = small(on_error="nan").fit(some_broken)
    with pytest.warns(FailedRowsWarning, match=r"2 of 4 rows .* row 1 \(patient1\.png\)"):
        E = extractor.transform(some_broken)
    assert np.isnan(E).all(axis=1).tolist() == [False, True, False, True]
    assert relative(E[[0, 2]], small().fit_transform(images(4)[[0, 2]])) < 1e-6
    assert extractor.failed_rows_["row"].tolist() == [1, 3]
    assert extractor.failed_rows_["source"].tolist() == ["patient1.png", "patient3.png"]
    extractor.transform(some_broken.iloc[[0]])
    assert extractor.failed_rows_.empty
    extractor.set_params(layer="all")
    with pytest.warns(FailedRowsWarning):
        E = extractor.fit(some_broken).transform(some_broken)
    assert np.isnan(E).all(axis=1).tolist() == [False, True, False, True]
    assert np.isfinite(E[[0, 2]]).all()


def test_no_file_name_in_a_pickle_or_a_repr(some_broken):
    extractor = small(on_error="nan").fit(some_broken)
    with pytest.warns(FailedRowsWarning):
        extractor.transform(some_broken)
    assert b"patient1" not in pickle.dumps(extractor)
    assert len(extractor.failed_rows_) == 2
    assert "patient" not in repr(extractor) + extractor._repr_html_()
    assert pickle.loads(pickle.dumps(extractor)).failed_rows_.empty
    assert len(extractor.failed_rows_) == 2


def test_an_error_in_a_callable_names_the_image(some_broken):
    def prepare(image):
        raise KeyError("no such thing")

    good = some_broken.iloc[[2]].reset_index(drop=True)
    with pytest.raises(KeyError) as caught:
        small(preprocessing=prepare, on_error="nan").fit(good).transform(good)
    assert caught.value.__notes__ == ["while preparing row 0 (patient2.png)"]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(3, 64, 64, dtype=torch.uint8), "uint8; expected floats"),
        (torch.full((3, 64, 64), float("nan")), "NaN or infinity"),
        (torch.zeros(3, 32, 64), r"shape \(3, 32, 64\)"),
    ],
)
def test_a_callable_must_return_what_a_network_takes(tensor, message):
    X = images(1)
    with pytest.raises(ValueError, match=message):
        small(preprocessing=lambda image: tensor).fit(X).transform(X)


# --- pickles ---------------------------------------------------------------------------------


def test_a_pickle_is_small_and_finds_its_weights_again():
    X = images(3)
    extractor = small(cache=False).fit(X)
    expected = extractor.transform(X)
    pickled = pickle.dumps(extractor)
    assert len(pickled) < 20_000
    REGISTRY.clear()
    assert np.array_equal(pickle.loads(pickled).transform(X), expected)


def saved_weights(tmp_path, seed, name="weights.pth"):
    path = tmp_path / name
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    X = images(2)
    path = saved_weights(tmp_path, 0)
    extractor = small(weights=path, cache=False).fit(X)
    expected = extractor.transform(X)
    pickled = pickle.dumps(extractor)
    saved_weights(tmp_path, 1)
    REGISTRY.clear()
    with pytest.warns(UserWarning, match="another file"):
        again = pickle.loads(pickled)
    with pytest.raises(WeightsMismatchError, match="store_weights=True"):
        again.transform(X)
    saved_weights(tmp_path, 0)
    REGISTRY.clear()
    assert np.array_equal(pickle.loads(pickled).transform(X), expected)


def test_a_changed_file_is_noticed_however_it_is_named(tmp_path, monkeypatch):
    X = images(2)
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("weights.pth", "~/weights.pth"):
        saved_weights(tmp_path, 0)
        one = small(weights=name, cache=False).fit_transform(X)
        saved_weights(tmp_path, 1)
        assert not np.allclose(small(weights=name, cache=False).fit_transform(X), one)


def test_a_relative_path_survives_a_change_of_directory(tmp_path, monkeypatch):
    X = images(2)
    saved_weights(tmp_path, 0)
    monkeypatch.chdir(tmp_path)
    extractor = small(weights="weights.pth", cache=False).fit(X)
    expected = extractor.transform(X)
    monkeypatch.chdir("/")
    REGISTRY.clear()
    assert np.array_equal(extractor.transform(X), expected)


def test_refitting_after_the_file_changed_uses_the_new_one(tmp_path):
    X = images(2)
    extractor = small(weights=saved_weights(tmp_path, 0), cache=False)
    one = extractor.fit_transform(X)
    saved_weights(tmp_path, 1)
    two = extractor.fit_transform(X)
    assert not np.allclose(one, two)


@pytest.mark.parametrize("layer", [None, "layer2"])
def test_store_weights_needs_no_file(tmp_path, layer):
    X = images(2)
    path = saved_weights(tmp_path, 0)
    extractor = small(weights=path, layer=layer, store_weights=True, cache=False).fit(X)
    expected = extractor.transform(X)
    pickled = pickle.dumps(extractor)
    path.unlink()
    REGISTRY.clear()
    loaded = pickle.loads(pickled)
    assert np.array_equal(loaded.transform(X), expected)
    whole = 11_689_512 * 4
    assert len(pickled) < (0.08 * whole if layer else 1.05 * whole)


def test_weights_found_by_name_in_another_folder(tmp_path, monkeypatch):
    X = images(2)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    path = saved_weights(tmp_path / "here", 0)
    extractor = small(weights=str(path), cache=False).fit(X)
    expected = extractor.transform(X)
    pickled = pickle.dumps(extractor)
    path.rename(tmp_path / "there" / path.name)
    REGISTRY.clear()
    with pytest.warns(UserWarning, match="cannot compute"):
        again = pickle.loads(pickled)
    with pytest.raises(WeightsNotFoundError):
        again.transform(X)
    monkeypatch.setenv("SKTRANSFER_WEIGHTS_DIR", str(tmp_path / "there"))
    assert np.array_equal(pickle.loads(pickled).transform(X), expected)


# --- bad parameters and bad input -----------------------------------------------------------------


def test_errors_say_what_to_do():
    X = images(2)
    with pytest.raises(UnknownBackboneError, match="resnet50"):
        small("resnet5O").fit(X)
    with pytest.raises(UnknownStageError, match="maxpool, layer1, layer2, layer3, layer4"):
        small(layer="layer9").fit(X)
    with pytest.raises(UnknownStageError, match="from -5 to 4"):
        small(layer=5).fit(X)
    with pytest.raises(ValueError, match="class token"):
        small(layer="layer2", pooling="cls").fit(X)
    with pytest.raises(ValueError, match="same stage twice"):
        small(layer=["layer2", 2]).fit(X)
    with pytest.raises(ValueError, match="empty list"):
        small(layer=[]).fit(X)
    for layer in ([1.7], [["layer1"]], [True]):
        with pytest.raises(ValueError, match="names stages by str or int"):
            small(layer=layer).fit(X)
    with pytest.raises(ValueError, match="own way of pooling"):
        small("vgg11", pooling="max").fit(X)
    with pytest.raises(ValueError, match="made for 224 x 224"):
        PretrainedFeatureExtractor("vit_b_32", weights=None, image_size=100).fit(X)
    with pytest.raises(ValueError, match="in a list"):
        small().fit("image.png")
    with pytest.raises(NotFittedError):
        small().transform(X)
    with pytest.raises(NotFittedError):
        small().get_feature_names_out()
    with pytest.raises(WeightsNotFoundError, match="SKTRANSFER_WEIGHTS_DIR"):
        PretrainedFeatureExtractor("resnet34").fit(X)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match=r"device='cuda'.*available: cpu"):
        small(device="cuda").fit(images(1))
    with pytest.raises(ValueError, match="'auto' or a torch device"):
        small(device="gpu").fit(images(1))


BAD = {
    "backbone": 3,
    "weights": 3,
    "layer": 1.5,
    "pooling": "median",
    "preprocessing": "crop",
    "image_size": 0,
    "scaled_decoding": "yes",
    "image_shape": 28,
    "value_range": 255,
    "dicom": {"frame": 0},
    "batch_size": 0,
    "device": 3,
    "precision": "float8",
    "calibration": 3,
    "engine": "tensorflow",
    "cache": 3.5,
    "on_error": "skip",
    "n_jobs": 1.5,
    "random_state": "seed",
    "store_weights": "yes",
    "output": "jax",
    "verbose": "much",
}


def test_every_parameter_has_a_constraint():
    assert set(BAD) == set(small().get_params()) == set(small()._parameter_constraints)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        small().set_params(**{name: BAD[name]}).fit(images(1))


def test_numpy_scalars_are_accepted_as_parameters():
    """A search over `np.arange` hands these in."""
    X = images(2)
    E = small(
        np.str_("resnet18"),
        layer=np.int64(1),
        image_size=np.int64(64),
        batch_size=np.int64(2),
        cache=np.bool_(True),
        random_state=np.int64(0),
        verbose=np.int64(0),
    ).fit_transform(X)
    assert np.array_equal(E, small(layer=1).fit_transform(X))


def test_verbose_shows_progress_and_silence_is_the_default(capsys):
    X = images(4)
    small(cache=False).fit_transform(X)
    assert capsys.readouterr() == ("", "")
    small(cache=False, verbose=1).fit_transform(X)
    assert "4/4" in capsys.readouterr().err


def test_no_warning_in_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = pd.DataFrame({"image": list(images(2))})
        small().fit(frame).transform(frame)
        small().fit(frame).transform(list(images(2)))
