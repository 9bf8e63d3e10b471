"""Networks of every torchvision family can be trained, cut anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from sktransfer import FineTuneClassifier

FAST = [("mobilenet_v3_small", 64), ("inception_v3", 96)]
SLOW = [
    *(
        ("alexnet", 64),
        ("vgg11", 64),
        ("squeezenet1_1", 64),
        ("densenet121", 64),
        ("googlenet", 64),
    ),
    *(
        ("shufflenet_v2_x0_5", 64),
        ("mobilenet_v2", 64),
        ("mnasnet0_5", 64),
        ("resnext50_32x4d", 64),
    ),
    *(("efficientnet_b0", 64), ("regnet_y_400mf", 64), ("convnext_tiny", 64), ("swin_t", 64)),
    *(("vit_b_32", 224), ("maxvit_t", 224), ("wide_resnet50_2", 64), ("efficientnet_lite0", 64)),
]


@pytest.mark.parametrize(
    ("name", "side"),
    [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("freeze_depth", ["all", -1, 0])
def test_one_epoch_of_every_family(name, side, freeze_depth, task):
    X, y = task[0][:6], task[1][:6]
    clf = FineTuneClassifier(
        name,
        weights=None,
        image_size=side,
        freeze_depth=freeze_depth,
        max_epochs=1,
        batch_size=3,
        lr=1e-5,
        random_state=0,
        engine="torch",
    ).fit(X, y)
    P = clf.predict_proba(X)
    np.testing.assert_allclose(P.sum(axis=1), 1)
    assert np.isfinite(clf.history_[-1]["train_loss"])
    # What is trained did move, in the stages too.
    untrained = FineTuneClassifier(**{**clf.get_params(), "max_epochs": 0}).fit(X, y)
    moved = {
        name.split(".")[1]
        for name, tensor in clf.module_.learned().items()
        if name.startswith("stages.")
        and not np.array_equal(tensor.numpy(), untrained.module_.learned()[name].numpy())
    }
    assert bool(moved) == (freeze_depth != "all")
