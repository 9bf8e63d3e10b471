"""The registry: one copy of a network, as deep as asked for, bounded, never the wrong weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sktransfer._backbones import load_backbone
from sktransfer._frozen import LayerOutput, NetworkRegistry, NetworkSource
from sktransfer._persistence import found_source
from sktransfer.exceptions import WeightsMismatchError

EMBEDDING = 6  # the five stages of a ResNet and the neck


def source(name="resnet18", seed=0, loads=None):
    def load():
        if loads is not None:
            loads.append(name)
        return load_backbone(name, weights=None, seed=seed)

    return NetworkSource((name, seed), load)


def test_loads_once_and_shares():
    registry, loads = NetworkRegistry(), []
    one = registry.get(source(loads=loads), 2)
    assert registry.get(source(loads=loads), 1) is one
    assert loads == ["resnet18"]


def test_a_deeper_cut_takes_over_the_stages_there_are():
    registry = NetworkRegistry()
    shallow = registry.get(source(), 2)
    deep = registry.get(source(), EMBEDDING)
    assert deep.stages[:2] == shallow.stages
    assert len(registry) == 1
    x = torch.randn(2, 3, 64, 64)
    (expected,) = NetworkRegistry().get(source(), EMBEDDING).run(x, [LayerOutput(None, None)])
    assert torch.equal(deep.run(x, [LayerOutput(None, None)])[0], expected)


def test_precisions_are_networks_of_their_own():
    registry = NetworkRegistry()
    registry.get(source(), 1)
    half = registry.get(source(), 1, precision="bfloat16")
    assert len(registry) == 2
    assert next(half.stages[0].parameters()).dtype == torch.bfloat16


def test_the_least_recently_used_goes_first_and_one_stays(monkeypatch):
    monkeypatch.setattr("sktransfer._frozen._registry.free_memory", lambda: 0)
    registry, loads = NetworkRegistry(max_bytes=1), []
    for name in ("squeezenet1_0", "squeezenet1_1", "squeezenet1_0"):
        registry.get(source(name, loads=loads), 3)
    assert len(registry) == 1
    assert loads == ["squeezenet1_0", "squeezenet1_1", "squeezenet1_0"]
    roomy, loads = NetworkRegistry(), []
    for name in ("squeezenet1_0", "squeezenet1_1", "squeezenet1_0"):
        roomy.get(source(name, loads=loads), 3)
    assert loads == ["squeezenet1_0", "squeezenet1_1"]


def test_networks_used_in_turn_stay_once_they_have_come_back(monkeypatch):
    """Beyond the bound, each would else drive out the one that is asked for next."""
    names = ("squeezenet1_0", "squeezenet1_1", "resnet18")
    registry, loads = NetworkRegistry(max_bytes=1), []
    for name in names * 4:
        registry.get(source(name, loads=loads), 1)
    assert len(registry) == 3
    assert 3 < len(loads) <= 6
    # Those that do not come back do not stay.
    walked = NetworkRegistry(max_bytes=1)
    for name in names:
        walked.get(source(name), 1)
    assert (len(walked), walked.max_bytes) == (1, 1)
    # Nor do those for which there is no memory.
    monkeypatch.setattr("sktransfer._frozen._registry.free_memory", lambda: 4)
    for name in names * 2:
        walked.get(source(name), 1)
    assert (len(walked), walked.max_bytes) == (1, 1)


def test_other_weights_than_those_referred_to_are_refused():
    reference = NetworkRegistry().get(source(seed=0), 1).info.reference
    other = found_source(replace(reference, digest="blake2b:00"))
    with pytest.raises(WeightsMismatchError, match="random weights of resnet18"):
        NetworkRegistry().get(other, 1)
    assert NetworkRegistry().get(found_source(reference), 1).info.reference == reference


def test_a_source_that_gives_something_else_the_second_time():
    """A weights file exchanged while the process runs: pieces of the two are never mixed."""
    registry = NetworkRegistry()
    seeds = iter([0, 1])
    changing = NetworkSource(
        ("file",), lambda: load_backbone("resnet18", weights=None, seed=next(seeds))
    )
    registry.get(changing, 1)
    deep = registry.get(changing, 3)
    plain = NetworkRegistry().get(source(seed=1), 3)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(
        deep.run(x, [LayerOutput(2, "avg")])[0], plain.run(x, [LayerOutput(2, "avg")])[0]
    )


def test_clear():
    registry = NetworkRegistry()
    registry.get(source(), 1)
    registry.clear()
    assert len(registry) == 0
