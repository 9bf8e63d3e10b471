"""Against plain torchvision on real photographs: `Weights.transforms()`, the original module."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from sktransfer import PretrainedFeatureExtractor
from sktransfer._backbones import load_backbone

SHARED = ["resnet18", "mobilenet_v2", "squeezenet1_0"]
TOP1 = {"resnet18": 79.0, "mobilenet_v2": 84.5, "squeezenet1_0": 61.0}


@pytest.fixture(scope="module")
def samples(shared_data):
    table = pd.read_csv(shared_data / "imagenet_samples" / "labels.csv")
    table["path"] = [str(shared_data / "imagenet_samples" / name) for name in table["file"]]
    return table


def weights_file(folder, name):
    (path,) = folder.glob(f"{name}*.pth")
    return str(path)


def embedding_of(net, x):
    """What the last linear layer is given, by the original module's own attributes."""
    if hasattr(net, "layer4"):
        net.fc = torch.nn.Identity()
        return net(x)
    if isinstance(net, torchvision.models.SqueezeNet):
        return net.features(x).mean((2, 3))
    if isinstance(net, torchvision.models.Inception3):
        net.fc = torch.nn.Identity()
        return net(x)
    if isinstance(net, torchvision.models.VGG):
        net.classifier[-1] = torch.nn.Identity()  # idempotent: this is called per batch
        return net(x)
    net.classifier = torch.nn.Identity()
    return net(x)


def plain(name, weights, paths, batch=20):
    """Embeddings the way a torchvision user computes them, in float32."""
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    # What torchvision itself adds where it loads the default weights.
    options = {"transform_input": True, "init_weights": False} if name == "inception_v3" else {}
    net = torchvision.models.get_model(name, **options)
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.eval()
    rows = []
    with torch.inference_mode():
        for low in range(0, len(paths), batch):
            images = [Image.open(path).convert("RGB") for path in paths[low : low + batch]]
            rows.append(embedding_of(net, torch.stack([transform(p) for p in images])))
    return torch.cat(rows).numpy()


def relative(a, b):
    return (np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max()


@pytest.mark.parametrize("name", SHARED)
def test_embeddings_with_real_weights(name, samples, shared_weights):
    weights = weights_file(shared_weights, name)
    paths = samples["path"].tolist()
    E = PretrainedFeatureExtractor(name, weights=weights).fit_transform(paths)
    assert relative(E, plain(name, weights, paths)) < 1e-5


@pytest.mark.parametrize("name", ["inception_v3", "densenet121", "vgg19"])
@pytest.mark.parametrize("n", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_embeddings_with_random_weights(name, n, samples, tmp_path):
    paths, weights = samples["path"].tolist()[:n], tmp_path / "random.pth"
    options = {} if name == "densenet121" else {"init_weights": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(torchvision.models.get_model(name, **options).state_dict(), weights)
    E = PretrainedFeatureExtractor(name, weights=weights, cache=False).fit_transform(paths)
    assert relative(E, plain(name, weights, paths)) < 1e-5


@pytest.mark.parametrize("name", SHARED)
def test_top_1_of_the_whole_network(name, samples, shared_weights):
    """Wrong weights, a wrong transform or a wrong order of classes all show here.

    The files are torchvision's first weights, compressed and expanded again. A path means the
    transform of the default weights, which for MobileNetV2 are the second: the first's is given.
    """
    weights = weights_file(shared_weights, name)
    backbone = load_backbone(name, weights=weights)
    first = torchvision.models.get_model_weights(name).IMAGENET1K_V1.transforms()
    settings = {"backbone": name, "weights": weights, "preprocessing": first}
    # The classifier runs on what the extractor gives: the embedding, or SqueezeNet's last map.
    if backbone.classifier_takes_map:
        extractor = PretrainedFeatureExtractor(**settings, layer=-1, pooling="flatten")
        E = torch.from_numpy(extractor.fit_transform(samples["path"]))
        side = int((E.shape[1] // backbone.n_features) ** 0.5)
        E = E.reshape(len(E), backbone.n_features, side, side)
    else:
        extractor = PretrainedFeatureExtractor(**settings)
        E = torch.from_numpy(extractor.fit_transform(samples["path"]))
    with torch.inference_mode():
        predicted = backbone.classifier(E).argmax(1).numpy()
    accuracy = 100 * np.mean(predicted == samples["class_index"].to_numpy())
    assert accuracy == pytest.approx(TOP1[name], abs=0.5)


def test_another_process_gives_the_same_embeddings(samples, shared_weights, tmp_path):
    weights = weights_file(shared_weights, "resnet18")
    paths = samples["path"].tolist()[:6]
    script = (
        "import sys, numpy as np\n"
        "from sktransfer import PretrainedFeatureExtractor\n"
        "f = PretrainedFeatureExtractor('resnet18', weights=sys.argv[1], batch_size=2)\n"
        "np.save(sys.argv[2], f.fit_transform(sys.argv[3:]))\n"
    )
    saved = tmp_path / "E.npy"
    subprocess.run([sys.executable, "-c", script, weights, saved, *paths], check=True, timeout=300)
    here = PretrainedFeatureExtractor("resnet18", weights=weights, cache=False).fit_transform(paths)
    assert relative(np.load(saved), here) < 1e-5
