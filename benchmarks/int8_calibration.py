"""What ``precision="int8"`` is best calibrated on: photographs, ImageNet, or no images at all.

    python benchmarks/int8_calibration.py [--networks resnet18 ...] [--seeds 10] [--n 1000]

The ways: the cuts of scikit-learn's two photographs, which are the default; images of ImageNet,
which the networks were trained on; and images made from noise until every BatchNorm layer sees the
means and variances that it was trained with (Cai et al., "ZeroQ: A Novel Zero Shot Quantization
Framework", CVPR 2020), which need no data. Judged as in ``int8_quality.py``. Needs the shared
images and weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import (
    RESULTS,
    machine,
    print_table,
    shared_with_weights,
    torchvision_model,
    workspace,
    write_json,
)
from _tasks import extractors
from finetune import weights_of
from int8_quality import compare, tasks
from PIL import Image

# ImageNet's means and standard deviations, which the networks' inputs are normalized by.
MEAN, STD = (
    torch.tensor(each)[:, None, None] for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
)
SIDE, BATCH = 224, 16


def from_statistics(network: torch.nn.Module, n: int, steps: int) -> list[Image.Image]:
    """Images made from noise, that have the statistics of all BatchNorm layers."""
    network = network.eval().requires_grad_(False)
    losses: list[torch.Tensor] = []

    def hook(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        values = inputs[0]
        means, variances = values.mean((0, 2, 3)), values.var((0, 2, 3))
        apart = (variances + layer.eps).sqrt() - (layer.running_var + layer.eps).sqrt()
        losses.append((means - layer.running_mean).square().mean() + apart.square().mean())

    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(hook)
    torch.manual_seed(0)
    made = []
    for _ in range(0, n, BATCH):
        batch = torch.randn(BATCH, 3, SIDE, SIDE, requires_grad=True)
        optimizer = torch.optim.Adam([batch], lr=0.1)
        for step in range(steps):
            losses.clear()
            network(batch)
            loss = torch.stack(losses).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step in (0, steps - 1):
                print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
        values = (batch.detach() * STD + MEAN).clamp(0, 1).mul(255).round().byte()
        made += [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in values]
    return made[:n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--seeds", type=int, default=10, help="draws of the training rows")
    parser.add_argument("--n", type=int, default=1000, help="training images of PneumoniaMNIST")
    parser.add_argument("--made", type=int, default=32, help="images made from statistics")
    parser.add_argument("--steps", type=int, default=60, help="steps that they are made in")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    shared = shared_with_weights()
    imagenet = sorted((shared / "data" / "imagenet_samples").glob("*.jpg"))
    records: list[dict[str, Any]] = []
    with workspace():
        for name in args.networks:
            ways = {
                "photographs": None,
                "ImageNet": imagenet[:144],
                "statistics": from_statistics(
                    torchvision_model(name, weights_of(shared, name)), args.made, args.steps
                ),
            }
            for way, images in ways.items():
                extractor = extractors(shared)[name].set_params(calibration=images)
                for task, n_test in tasks(shared, args.n):
                    found = compare(name, extractor, task, n_test, args.seeds)
                    records += [{**record, "calibration": way} for record in found]
                    print(*records[-2:], sep="\n", flush=True)
    metrics = ("auc", "accuracy")
    print_table(
        "What int8 loses by what it is calibrated on",
        ("network", "set", "columns", "calibration", *metrics, "apart"),
        [
            (
                *(record[key] for key in ("network", "set", "columns", "calibration")),
                *(f"{record[f'{m}_float32'] - record[f'{m}_int8']:+.4f}" for m in metrics),
                f"{record['difference']:.1%}",
            )
            for record in records
        ],
    )
    for way in ways:
        lost = [
            [record[f"{m}_float32"] - record[f"{m}_int8"] for m in metrics]
            for record in records
            if record["calibration"] == way and record["images"] >= 300
        ]
        print(way, "loses AUC and accuracy on average:", np.mean(lost, axis=0).round(4))
    content = {"machine": machine(), "seeds": args.seeds, "made": args.made, "records": records}
    write_json("int8_calibration", content, args.results)


if __name__ == "__main__":
    main()
