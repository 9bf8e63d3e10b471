"""Folding never changes what a module computes beyond rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sktransfer._frozen._folding import fold_batch_norm

EXAMPLE = torch.zeros(1, 3, 9, 9)


def n_batch_norms(module):
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def trained_norm(channels):
    norm = nn.BatchNorm2d(channels)
    torch.manual_seed(0)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3.0)
    return norm


class Residual(nn.Module):
    """The shapes that matter: conv-norm, a shared convolution, norm before conv, a branch."""

    def __init__(self, shared=False):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), trained_norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), trained_norm(8)
        self.before, self.conv3 = trained_norm(8), nn.Conv2d(8, 8, 1)
        self.shared = shared

    def forward(self, x):
        y = torch.relu(self.norm1(self.conv1(x)))
        z = self.conv2(y)
        out = self.norm2(z) + self.conv3(self.before(y))
        if self.shared:
            out = out + z + self.conv2(out)
        return out


def relative_difference(a, b):
    return ((a - b).norm() / b.norm()).item()


@torch.inference_mode()
def test_same_numbers_fewer_layers():
    module = Residual().eval()
    folded = fold_batch_norm(module, EXAMPLE)
    x = torch.randn(4, 3, 9, 9)
    assert relative_difference(folded(x), module(x)) < 1e-6
    assert n_batch_norms(module) == 3
    assert n_batch_norms(folded) == 1  # the one before a convolution cannot be folded
    assert not any(p.requires_grad for p in folded.parameters())


@torch.inference_mode()
def test_a_convolution_somebody_else_reads_is_left_alone():
    module = Residual(shared=True).eval()
    x = torch.randn(4, 3, 9, 9)
    assert relative_difference(fold_batch_norm(module, EXAMPLE)(x), module(x)) < 1e-6


def test_the_original_is_untouched():
    module = Residual().eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fold_batch_norm(module, EXAMPLE, dtype=torch.float64)
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


@torch.inference_mode()
def test_control_flow_is_no_obstacle_and_stays():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Residual()

        def forward(self, x):
            return self.inner(x) if x.sum() >= 0 else -self.inner(x)

    module = Branching().eval()
    folded = fold_batch_norm(module, EXAMPLE)
    x = torch.randn(2, 3, 5, 5).abs()
    assert n_batch_norms(folded) == 1
    for sign in (1, -1):
        assert relative_difference(folded(sign * x), module(sign * x)) < 1e-6


class Chain(nn.Module):
    """A convolution and its BatchNorm, read as a test says."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), trained_norm(3)
        self.how = how

    def forward(self, x):
        y = self.conv(x)
        if self.how == "returned too":
            return self.norm(y), y
        if self.how == "viewed":
            return self.norm(y) + y.view(y.shape)
        if self.how == "norm twice":
            return self.norm(y) + self.norm(x)
        if self.how == "conv twice":
            return self.norm(y) + self.conv(x + 1)
        if self.how == "changed before":
            return self.norm(y.relu_())
        return self.norm(y)


@torch.inference_mode()
@pytest.mark.parametrize(
    "how",
    ["plain", "returned too", "viewed", "norm twice", "conv twice", "changed before"],
)
def test_folded_only_where_nobody_else_reads(how):
    module = Chain(how).eval()
    folded = fold_batch_norm(module, EXAMPLE)
    assert n_batch_norms(folded) == (0 if how == "plain" else 1)
    x = torch.randn(2, 3, 5, 5)
    mine, theirs = folded(x), module(x)
    if how == "returned too":
        mine, theirs = torch.cat(mine), torch.cat(theirs)
    assert relative_difference(mine, theirs) < 1e-6


@torch.inference_mode()
def test_batch_statistics_are_not_folded():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    folded = fold_batch_norm(module, EXAMPLE)
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(folded(x), module(x))


@torch.inference_mode()
def test_an_input_the_module_cannot_take_folds_nothing():
    module = Residual().eval()
    for example in (None, torch.zeros(1, 7, 9, 9)):
        assert n_batch_norms(fold_batch_norm(module, example)) == 3


@torch.inference_mode()
def test_float64_is_not_rounded_to_float32_on_the_way():
    module = Residual().eval()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    folded = fold_batch_norm(module, EXAMPLE, dtype=torch.float64)
    assert relative_difference(folded(x), module.double()(x)) < 1e-13


@pytest.mark.parametrize("training", [True, False])
def test_the_folded_module_is_in_eval_mode(training):
    assert not fold_batch_norm(Residual().train(training), EXAMPLE).training
