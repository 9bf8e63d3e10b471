"""A module of the user's own as a backbone: its stages, its weights, and what is refused."""

import copy
import pickle
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn.functional import relu

from sktransfer import FineTuneClassifier, PretrainedFeatureExtractor, describe_backbone
from sktransfer.exceptions import UnknownStageError, WeightsMismatchError

SIDE = 32


def block(n_in, n_out):
    layers = (nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def chain(n_classes=4):
    torch.manual_seed(0)
    ends = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(16, n_classes)}
    return nn.Sequential(OrderedDict(stem=block(3, 8), body=block(8, 16), **ends))


class Features(nn.Module):
    """Flattens in ``forward``, between two children, as many published networks do."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(block(3, 8), block(8, 16))
        hidden = (nn.Linear(16 * 64, 32), nn.ReLU(), nn.Linear(32, 5))
        self.classifier = nn.Sequential(nn.Dropout(), *hidden)

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Skips(nn.Module):
    """Its children do not run one after the other."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = block(3, 8), block(8, 8)

    def forward(self, x):
        x = self.stem(x)
        return self.body(x) + nn.functional.avg_pool2d(x, 2)


class Scaled(nn.Module):
    """A number that is no tensor decides what it computes."""

    def __init__(self, factor):
        super().__init__()
        self.conv, self.factor = nn.Conv2d(3, 4, 3), factor

    def forward(self, x):
        return relu(self.conv(x)) * self.factor


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    return (rng.integers(0, 150, (24, 40, 40, 3)) + 60 * y[:, None, None, None]).astype(np.uint8), y


def extractor(net, **settings):
    return PretrainedFeatureExtractor(net, image_size=SIDE, engine="torch", **settings)


def classifier(net, **settings):
    settings = {"image_size": SIDE, "max_epochs": 1, "random_state": 0, **settings}
    return FineTuneClassifier(net, engine="torch", **settings)


def prepared(X):
    """What the documentation says of preprocessing: squashed to a square, values in [0, 1]."""
    rows = [Image.fromarray(x).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for x in X]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255


def test_the_embedding_is_the_input_of_the_last_linear_layer(task):
    X, _ = task
    net = chain()
    with torch.inference_mode():
        expected = nn.Sequential(*list(net.eval())[:-1])(prepared(X)).numpy()
    found = extractor(net).fit(X)
    np.testing.assert_allclose(found.transform(X), expected, rtol=1e-4, atol=1e-5)
    assert found.get_feature_names_out()[0] == "Sequential_00"


@pytest.mark.parametrize(
    ("make", "names", "n_features"),
    [
        (chain, ["stem", "body"], 16),
        (Features, ["features.0", "features.1", "classifier.2"], 32),
        (lambda: [("stem", block(3, 8)), ("body", block(8, 16))], ["stem", "body"], 16),
        (lambda: [("whole", Skips())], ["whole"], 8),
        (lambda: [("body", block(3, 8)), ("last", nn.Conv2d(8, 5, 1))], ["body", "last"], 5),
        (lambda: nn.ModuleList([block(3, 8), block(8, 16)]), ["0", "1"], 16),
        (lambda: nn.DataParallel(chain()), ["stem", "body"], 16),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), ["1", "2"], 4),
    ],
)
def test_stages_are_the_children_that_run_in_order(task, make, names, n_features):
    X, _ = task
    net = make()
    assert describe_backbone(net, image_size=SIDE)["name"].tolist() == names
    assert extractor(net).fit_transform(X[:2]).shape == (2, n_features)


@pytest.mark.parametrize("head", ["its own", "another number of classes", "none", "two layers"])
def test_a_network_of_torchvision_is_cut_as_by_its_name(head):
    from torchvision import models

    net = models.resnet18()
    heads = {"another number of classes": nn.Linear(512, 2), "none": nn.Identity()}
    heads["two layers"] = nn.Sequential(nn.Dropout(), nn.Linear(512, 2))
    net.fc = heads.get(head, net.fc)
    names = describe_backbone("resnet18")["name"].tolist()
    assert describe_backbone(net, image_size=64)["name"].tolist() == names


def test_a_network_of_torchvision_computes_what_its_name_computes(task, tmp_path):
    from torchvision import models

    X, _ = task
    net = models.squeezenet1_1()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    named = PretrainedFeatureExtractor("squeezenet1_1", weights=tmp_path / "net.pth")
    own = PretrainedFeatureExtractor(net)
    assert np.array_equal(own.fit_transform(X[:2]), named.fit_transform(X[:2]))


def test_a_network_of_timm_is_cut_as_by_its_name():
    timm = pytest.importorskip("timm")
    net = timm.create_model("test_vit", num_classes=3)
    assert describe_backbone(net).equals(describe_backbone("timm/test_vit"))


def test_the_module_is_only_read(task):
    X, y = task
    net = chain().train()
    seen = []
    net.body.register_forward_hook(lambda *args: seen.append(1))
    before, layers = copy.deepcopy(net.state_dict()), repr(net)
    extractor(net).fit_transform(X)
    classifier(net, freeze_depth=0).fit(X, y)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert (net.training, repr(net)) == (True, layers)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert len(seen) < 5  # not for every batch
    assert len(net.body._forward_hooks) == 1


def test_clones_pickles_and_searches_keep_the_weights(task):
    X, y = task
    net = chain()
    found = extractor(net).fit(X)
    expected = found.transform(X)
    assert np.array_equal(clone(found).fit_transform(X), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(found)).transform(X), expected)
    grid = {"freeze_depth": [0, "stem", -1, "all"]}
    search = GridSearchCV(classifier(net), grid, cv=2, error_score="raise").fit(X, y)
    best = search.best_estimator_
    again = pickle.loads(pickle.dumps(best))
    assert np.array_equal(again.predict_proba(X), best.predict_proba(X))


def test_frozen_stages_of_a_module_do_not_change(task):
    X, y = task
    clf = classifier([("stem", block(3, 8)), ("body", nn.Sequential(block(8, 16), nn.Dropout()))])
    clf.set_params(lr=1e-2, freeze_depth="stem").fit(X, y)
    before = clf._prefix.network().run(torch.ones(1, 3, SIDE, SIDE), clf._prefix.outputs)[0].clone()
    body = clf.module_.learned()["stages.stage1.0.0.weight"].clone()
    clf.partial_fit(X, y)
    after = clf._prefix.network().run(torch.ones(1, 3, SIDE, SIDE), clf._prefix.outputs)[0]
    assert torch.equal(before, after)
    assert not torch.equal(clf.module_.learned()["stages.stage1.0.0.weight"], body)


@pytest.mark.parametrize("freeze_depth", [0, "stem", "all", ["stem"]])
def test_a_file_holds_the_weights_and_the_module_is_given_again(task, tmp_path, freeze_depth):
    X, y = task
    clf = classifier(chain(), freeze_depth=freeze_depth).fit(X, y)
    expected = clf.predict_proba(X)
    path = tmp_path / "clf.safetensors"
    clf.save(path)
    torch.manual_seed(5)
    fresh = nn.Sequential(OrderedDict((n, copy.deepcopy(m)) for n, m in chain().named_children()))
    for parameter in fresh.parameters():
        parameter.data.normal_()
    loaded = FineTuneClassifier.load(path, backbone=fresh)
    assert np.array_equal(loaded.predict_proba(X), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(loaded)).predict_proba(X), expected)
    loaded.save(tmp_path / "again.safetensors")
    again = FineTuneClassifier.load(tmp_path / "again.safetensors", backbone=fresh)
    assert np.array_equal(again.predict_proba(X), expected)
    second = extractor(FrozenEstimator(again)).fit_transform(X)
    assert np.array_equal(second, extractor(FrozenEstimator(clf)).fit_transform(X))
    with pytest.raises(ValueError, match=r"own, Sequential.*load\(path, backbone=module\)"):
        FineTuneClassifier.load(path)
    with pytest.raises(ValueError, match="own, Sequential"):
        extractor(path).fit(X)
    if freeze_depth == "all":
        with pytest.raises(WeightsMismatchError, match="do not fit"):
            FineTuneClassifier.load(path, backbone=[("stem", block(3, 8)), ("b", block(8, 4))])


def test_weights_of_a_module_come_from_a_file_or_are_drawn(task, tmp_path):
    X, _ = task
    net = chain()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    expected = extractor(net).fit_transform(X)
    other = chain()
    for parameter in other.parameters():
        parameter.data.zero_()
    given = extractor(other, weights=tmp_path / "net.pth").fit(X)
    (tmp_path / "net.pth").unlink()
    assert np.array_equal(given.transform(X), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(given)).transform(X), expected)
    drawn = extractor(net, weights=None).fit(X)
    assert not np.array_equal(drawn.transform(X), expected)
    assert np.array_equal(extractor(other, weights=None).fit_transform(X), drawn.transform(X))
    assert 1e-3 < drawn.transform(X).std() < 1e3
    with pytest.raises(ValueError, match=r"takes 'default' \(those that it holds\)"):
        extractor(net, weights="IMAGENET1K_V1").fit(X)


def test_equal_weights_of_other_code_or_settings_are_other_results(task, tmp_path):
    X, _ = task
    torch.manual_seed(0)
    once = Scaled(1.0)
    twice = copy.deepcopy(once)
    twice.factor = 2.0
    first = extractor([("all", once)], cache=tmp_path).fit_transform(X)
    second = extractor([("all", twice)], cache=tmp_path).fit_transform(X)
    np.testing.assert_allclose(second, 2 * first, rtol=1e-5)

    class Negated(Scaled):
        def forward(self, x):
            return -super().forward(x)

    Negated.__qualname__, Negated.__module__ = Scaled.__qualname__, Scaled.__module__
    negated = copy.deepcopy(once)
    negated.__class__ = Negated
    third = extractor([("all", negated)], cache=tmp_path).fit_transform(X)
    np.testing.assert_allclose(third, -first, rtol=1e-5)


def test_a_module_that_was_trained_after_fit_is_refused_and_not_mixed(task):
    X, _ = task
    net = chain()
    found = extractor(net, cache=None).fit(X)
    net.stem[0].weight.data.add_(1.0)
    again = pickle.loads(pickle.dumps(found))
    from sktransfer._frozen import REGISTRY

    REGISTRY.clear()
    with pytest.raises(WeightsMismatchError, match=r"module Sequential .* it has changed"):
        again.transform(X)


def test_half_precision_and_the_size_that_a_module_says_are_taken(task):
    X, _ = task
    net = chain()
    net.image_size = 48
    found = PretrainedFeatureExtractor(net.half(), engine="torch").fit(X)
    assert found._info.input_spec.crop_size == 48
    assert found.transform(X).dtype == np.float32


class Draws(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x += 1
        return self.conv(x)


def scripted(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch deprecate it
        return torch.jit.script(net)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Skips, r"children \(stem, body\).*\('whole', net\)"),
        (lambda: nn.Sequential(block(3, 8), Draws()), "same numbers for the same image again"),
        (lambda: nn.Sequential(block(3, 8), nn.BatchNorm2d(8, track_running_stats=False)), "batch"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "lazy layers"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3)), "cannot run on images of 32 x 32.*image_size"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 2)), "has no stage"),
        (lambda: nn.Sequential(block(3, 8), Writes()), "writes into its input"),
        (lambda: scripted(chain()), "TorchScript"),
        (lambda: [("a", block(3, 8)), ("a", block(8, 8))], "names each stage once"),
        (lambda: [("a", block(3, 8)), 3], r"modules or pairs.*got 3 at position 1"),
        (list, "empty list"),
        (lambda: nn.LSTM(32, 4), "LSTM"),
        (lambda: nn.Linear, r"instance of 'torch.nn.modules.module.Module'.*Got <class"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused_in_words(task, make, message):
    X, _ = task
    with pytest.raises(ValueError, match=f"(?s){message}"):
        extractor(make()).fit(X)


def test_weights_that_are_nan_and_a_stage_that_is_not_there_are_named(task):
    X, _ = task
    net = chain()
    with pytest.raises(UnknownStageError, match=r"'neck'.*stem, body.*describe_backbone\(backbone"):
        extractor(net, layer="neck").fit(X)
    net.stem[0].weight.data[0] = torch.nan
    with pytest.raises(WeightsMismatchError, match=r"stem.0.weight.*NaN"):
        extractor(net).fit(X)


def test_an_estimator_with_a_large_module_prints_little():
    from torchvision import models

    found = PretrainedFeatureExtractor(models.resnet152())
    assert len(repr(found)) < 5_000
    assert len(found._repr_html_()) < 200_000


def test_a_forward_hook_that_changes_results_is_refused(task):
    X, _ = task
    net = chain()
    net.stem.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(ValueError, match="a forward hook changes them"):
        extractor(net).fit(X)
