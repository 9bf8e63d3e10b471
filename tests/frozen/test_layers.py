"""Poolings against numpy, in every layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sktransfer._frozen import POOLINGS, pool

RNG = np.random.default_rng(0)
MAP = torch.from_numpy(RNG.normal(size=(3, 5, 4, 2)).astype(np.float32))

ORACLES = {
    "avg": lambda p: p.mean(-1),
    "max": lambda p: p.max(-1),
    "avgmax": lambda p: (p.mean(-1) + p.max(-1)) / 2,
    "gem": lambda p: np.cbrt((np.maximum(p, 1e-6) ** 3).mean(-1)),
    "flatten": lambda p: p.reshape(len(p), -1),
}


@pytest.mark.parametrize("how", ORACLES)
def test_matches_numpy_in_every_layout(how):
    expected = ORACLES[how](MAP.numpy().reshape(3, 5, 8).astype(np.float64))
    tokens = MAP.flatten(2).transpose(1, 2)
    with_class_token = torch.cat([torch.full((3, 1, 5), 1e3), tokens], dim=1)
    for x, layout, prefix in (
        (MAP, "NCHW", 0),
        (MAP.contiguous(memory_format=torch.channels_last), "NCHW", 0),
        (MAP.permute(0, 2, 3, 1), "NHWC", 0),
        (tokens, "NLC", 0),
        (with_class_token, "NLC", 1),
    ):
        pooled = pool(x, how, layout=layout, n_prefix_tokens=prefix)
        assert pooled.dtype == torch.float32
        np.testing.assert_allclose(pooled.numpy(), expected, rtol=2e-6, atol=1e-6)


def test_class_token():
    tokens = torch.arange(24.0).reshape(2, 4, 3)
    assert pool(tokens, "cls", layout="NLC", n_prefix_tokens=1).tolist() == tokens[:, 0].tolist()


@pytest.mark.parametrize("how", POOLINGS)
def test_a_vector_stays_a_vector_and_is_a_copy(how):
    x = torch.randn(2, 7)
    pooled = pool(x, how, layout="NC")
    assert torch.equal(pooled, x)
    pooled.zero_()
    assert x.abs().sum() > 0


def test_flatten_is_a_copy():
    x = torch.randn(2, 3, 4, 4)
    pool(x, "flatten").zero_()
    assert x.abs().sum() > 0


def test_half_precision_is_widened_before_the_sum():
    x = torch.full((1, 1, 300, 300), 2.0, dtype=torch.float16)
    assert pool(x, "avg").item() == 2.0
    assert pool(x, "gem").item() == pytest.approx(2.0, rel=1e-6)
    assert pool(x.double(), "avg").dtype == torch.float64


def test_unknown_pooling():
    with pytest.raises(ValueError, match="pooling must be one of avg, max"):
        pool(MAP, "median")
