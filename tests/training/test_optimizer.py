from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from dhcli.config.schema import Train
from dhcli.errors import ConfigError
from dhcli.training.optimizer import build_optimizer, set_rate


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 2))


def test_adamw_spares_norms_and_biases_from_decay() -> None:
    optimizer = build_optimizer(_network(), Train(optimizer="adamw", weight_decay=0.05))

    decay = {w.shape: g["weight_decay"] for g in optimizer.param_groups for w in g["params"]}

    assert decay == {(4, 3, 3, 3): 0.05, (2, 4): 0.05, (4,): 0.0, (2,): 0.0}
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_sgd_decays_everything_that_is_trained() -> None:
    network = _network()
    network[0].requires_grad_(False)

    (group,) = build_optimizer(network, Train(weight_decay=0.1, momentum=0.8)).param_groups

    assert [weight.shape for weight in group["params"]] == [(4,), (4,), (2, 4), (2,)]
    assert (group["weight_decay"], group["momentum"]) == (0.1, 0.8)


@pytest.mark.parametrize(
    ("kind", "plain", "settings", "tolerance"),
    [
        ("sgd", SGD, {"momentum": 0.9}, 0.0),
        ("adamw", AdamW, {"betas": (0.9, 0.999)}, 1e-7),
    ],
)
def test_it_moves_as_torchs_plain_optimiser_whatever_the_layout_in_memory(
    kind: str, plain: type, settings: dict[str, Any], tolerance: float
) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).to(
        memory_format=torch.channels_last
    )
    theirs = copy.deepcopy(ours)
    image = torch.randn(2, 3, 8, 8)
    moves = [
        (ours, build_optimizer(ours, Train(optimizer=kind, lr=0.01, weight_decay=0))),
        (theirs, plain(theirs.parameters(), 0.01, weight_decay=0, fused=False, **settings)),
    ]

    for step in range(4):
        for network, optimizer in moves:
            if step == 2:  # as a run that is resumed
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            optimizer.zero_grad()
            network(image).square().mean().backward()
            set_rate(optimizer, 0.01)
            optimizer.step()

    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_all_frozen_is_an_error() -> None:
    with pytest.raises(ConfigError, match="all are frozen"):
        build_optimizer(_network().requires_grad_(False), Train())


def test_set_rate_reaches_every_group() -> None:
    optimizer = build_optimizer(_network(), Train(optimizer="adamw"))

    set_rate(optimizer, 0.125)

    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_sgd_can_spare_norms_and_biases_and_look_ahead() -> None:
    optimizer = build_optimizer(_network(), Train(spare_norms=True, nesterov=True))

    decay = {w.shape: g["weight_decay"] for g in optimizer.param_groups for w in g["params"]}

    assert decay == {(4, 3, 3, 3): 1e-4, (2, 4): 1e-4, (4,): 0.0, (2,): 0.0}
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.9, True)}


def test_a_part_of_the_detector_has_a_rate_of_its_own() -> None:
    network = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
    settings = {"lr_multipliers": {"backbone": 0.1}}

    for kind in ("sgd", "adamw"):
        optimizer = build_optimizer(network, Train(optimizer=kind, **settings))
        set_rate(optimizer, 0.5)

        rates = {id(w): group["lr"] for group in optimizer.param_groups for w in group["params"]}
        assert {rates[id(weight)] for weight in network["backbone"].parameters()} == {0.05}
        assert {rates[id(weight)] for weight in network["head"].parameters()} == {0.5}


def test_a_part_that_is_not_there_is_an_error_with_the_nearest() -> None:
    network = nn.ModuleDict({"backbone": nn.Linear(2, 2)})

    with pytest.raises(ConfigError, match="has a part `backbon` in its name") as raised:
        build_optimizer(network, Train(lr_multipliers={"backbon": 0.1}))

    assert raised.value.hint == "did you mean `backbone`?"
