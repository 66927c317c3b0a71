"""Which scores and boxes can be read from which head, and why not others."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from dhcli.config.heads import (
    ONLY,
    all_read_outs,
    choose_read_out,
    own_read_out,
    part_of,
)
from dhcli.config.schema import Head, TwoStage
from dhcli.config.schema.base import Section
from dhcli.errors import ConfigError

FC, CONV = {"kind": "fc"}, {"kind": "conv"}
EXT = [{**FC, "lambda": 0.7}, {**CONV, "lambda": 0.8}]
DOUBLE = [FC, CONV]
SINGLE = {**FC, "lambda": 0.5}


def head(*branches: dict[str, Any], **settings: str) -> Head:
    return Head.model_validate({"branches": branches, **settings})


def two_stage(one: Head) -> TwoStage:
    return TwoStage(head=one)


class Toy(Section):
    """A model without branches."""

    kind: str = "toy"


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        (
            EXT,
            "fc/fc conv/conv fc/conv max/conv average/conv complementary/conv",  # Fig. 6, Table 3
        ),
        (DOUBLE, "fc/conv"),
        ([{**FC, "lambda": 0.7}, CONV], "fc/fc fc/conv"),
        (
            [FC, {**CONV, "lambda": 0.8}],
            "conv/conv fc/conv max/conv average/conv complementary/conv",
        ),
        ([{**FC, "lambda": 0.5}], "fc/fc"),
        ([FC, {**FC, "name": "fc2", "focus": "reg"}], "fc/fc2"),
        ([{**FC, "focus": "reg"}, {**CONV, "focus": "cls"}], "conv/fc"),
    ],
    ids=["Ext", "Double-Head", "λ_conv = 1", "λ_fc = 1", "single", "Double-FC", "Reverse"],
)
def test_every_read_out(branches: list[dict[str, Any]], expected: str) -> None:
    every = all_read_outs(head(*branches))

    assert " ".join("/".join(one) for one in every) == expected
    assert own_read_out(head(*branches)) in every


def test_what_is_not_asked_for_stays_as_it_is_configured() -> None:
    one = head(*EXT, scores="max", boxes="fc")

    assert choose_read_out(two_stage(one), None, None) == ("max", "fc")
    assert choose_read_out(two_stage(one), "average", None) == ("average", "fc")
    assert choose_read_out(two_stage(one), None, "conv") == ("max", "conv")
    assert choose_read_out(two_stage(one), "auto", "auto") == ("complementary", "conv")


@pytest.mark.parametrize(
    ("branches", "scores", "boxes", "said"),
    [
        (
            DOUBLE, "conv", None,
            "--scores: `conv` has no classifier (its λ is 1); it can be auto, fc",
        ),
        (
            DOUBLE, "max", None,
            "--scores: `max` fuses two classifiers, but `conv` has no classifier (its λ is 1); "
            "it can be auto, fc",
        ),
        (
            DOUBLE, None, "fc",
            "--boxes: `fc` has no box regression (its λ is 1); it can be auto, conv",
        ),
        (
            [{**FC, "lambda": 0.5}], "average", None,
            "--scores: `average` fuses two classifiers, but there is one branch; "
            "it can be auto, fc",
        ),
        (
            EXT, "cnov", None,
            "--scores: there is no `cnov`; it can be auto, fc, conv, max, average, complementary",
        ),
        (EXT, None, "max", "--boxes: there is no `max`; it can be auto, fc, conv"),
    ],
)  # fmt: skip
def test_what_a_head_cannot_give_says_why_and_what_it_can(
    branches: list[dict[str, Any]], scores: str | None, boxes: str | None, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_read_out(two_stage(head(*branches)), scores, boxes)

    assert str(caught.value) == said


def test_a_configuration_is_checked_by_the_same_rule() -> None:
    with pytest.raises(ValidationError, match=r"`scores`: `conv` has no classifier"):
        head(*DOUBLE, scores="conv")


@pytest.mark.parametrize("name", ["fc2", "2", "box-fc", "Straße_"])
def test_a_branch_can_be_called_so(name: str) -> None:
    assert head({**SINGLE, "name": name}).branches[0].name == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.b", "a branch's name is letters, digits, `-` and `_`"),
        ("", "a branch's name"),
        ("a b", "a branch's name"),
        ("auto", "`auto` means something else among read-outs and losses"),
        ("rpn", "`rpn` means"),
        ("max", "`max` means"),
        ("average", "`average` means"),
        ("complementary", "`complementary` means"),
        ("keys", "torch has a meaning of its own for `keys`"),
        ("training", "torch has"),
        ("_modules", "begins with no sign"),
        ("-", "begins with no sign"),
    ],
)
def test_a_branch_cannot_be_called_so(name: str, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        head({**SINGLE, "name": name})


def test_every_name_that_torch_keeps_is_refused() -> None:
    from torch import nn

    for name in dir(nn.ModuleDict()):
        with pytest.raises(ValidationError):
            head({**SINGLE, "name": name})


def test_the_name_that_two_branches_share_is_said() -> None:
    with pytest.raises(ValidationError, match="two branches are named `b`"):
        head({**FC, "name": "a"}, {**FC, "name": "b"}, {**CONV, "name": "b"})


def test_a_model_without_branches_has_one_read_out() -> None:
    assert choose_read_out(Toy(), None, "auto") == ONLY
    with pytest.raises(ConfigError) as caught:
        choose_read_out(Toy(), None, "fc")

    assert str(caught.value) == "--boxes: a model of kind `toy` can be read in one way only"


def test_a_model_describes_its_parts() -> None:
    described = TwoStage(head=head(*EXT)).describe()

    assert described == [
        ("backbone", "resnet50, frozen_bn"),
        ("fc branch", "fc, focus cls, ω 1, λ 0.7, RoI × 1"),
        ("conv branch", "conv, focus reg, ω 1, λ 0.8, RoI × 1"),
    ]
    assert Toy().describe() == []


@pytest.mark.parametrize(
    ("tensor", "part", "fine"),
    [
        ("backbone.layer1.0.conv1.weight", "backbone", "backbone"),
        ("head.branches.fc.cls.weight", "head fc", "head fc cls"),
        ("head.branches.conv.trunk.0.weight", "head conv", "head conv trunk"),
        ("weight", "weight", "weight"),
    ],
)
def test_the_part_that_a_tensor_belongs_to(tensor: str, part: str, fine: str) -> None:
    assert (part_of(tensor), part_of(tensor, fine=True)) == (part, fine)
