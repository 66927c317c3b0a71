"""What is asked of a detector over what it is configured for."""

from __future__ import annotations

from typing import Any

import pytest

from dhcli.config.detecting import DetectOptions, check_gate, check_nms
from dhcli.config.heads import ReadOut, all_read_outs
from dhcli.config.schema import Config, TwoStage
from dhcli.config.schema.detect import GuidedNms, SoftNms
from dhcli.errors import ConfigError


def _input(**values: object) -> Config:
    return Config.model_validate({"input": values})


def test_the_longest_side_changes_in_proportion() -> None:
    asked = DetectOptions(image_size=1200).sized(_input(min_size=800, max_size=1333))

    assert (asked.input.min_size, asked.input.max_size) == (1200, 2000)


def test_nothing_changes_unless_it_is_asked_for() -> None:
    config = _input(min_size=800, max_size=1333)

    assert DetectOptions().sized(config) is config


def test_a_detector_of_squares_takes_multiples_of_32_alone() -> None:
    squares = _input(min_size=640, max_size=640, letterbox=114)

    assert DetectOptions(image_size=416).sized(squares).input.max_size == 416
    with pytest.raises(ConfigError, match="multiples of 32") as caught:
        DetectOptions(image_size=400).sized(squares)
    assert caught.value.hint == "such as 384"


def _two_stage(*branches: dict[str, Any], **detect: Any) -> TwoStage:
    head = {"branches": [{"kind": "fc", "lambda": 0.5}, *branches]}
    return TwoStage.model_validate({"head": head, "detect": detect})


IOU = {"kind": "fc", "name": "iou", "focus": "iou"}


def test_guided_nms_can_be_asked_of_a_model_that_predicts_iou() -> None:
    guided = DetectOptions(nms="guided")
    plain, configured = _two_stage(IOU), _two_stage(IOU, nms={"kind": "guided", "refine": 5})

    check_nms(plain, guided)

    assert guided.over(plain.detect).nms == GuidedNms(kind="guided")
    assert guided.over(configured.detect).nms == GuidedNms(kind="guided", refine=5)
    assert DetectOptions(nms="soft").over(configured.detect).nms == SoftNms(kind="soft")
    assert DetectOptions(nms="hard").over(configured.detect).nms.kind == "hard"


def test_a_gate_is_refused_where_no_fused_scores_are_read() -> None:
    ext = _two_stage({"kind": "conv", "lambda": 0.5})
    pair = [
        {"kind": "fc", "name": "pc", "roi": {"kind": "disentangled"}},
        {"kind": "conv", "roi": {"kind": "disentangled"}},
    ]

    check_gate(ext, 0.9)
    check_gate(ext, 0.9, all_read_outs(ext.head))
    check_gate(ext, 0.0, [ReadOut("fc", "conv")])

    with pytest.raises(ConfigError, match="a gate needs fused scores, but those of `fc`"):
        check_gate(ext, 0.9, [ReadOut("fc", "conv")])
    with pytest.raises(ConfigError, match="a gate needs fused scores, but only one branch"):
        check_gate(_two_stage(*pair), 0.9)  # its sibling scores, but is fused with none


def test_guided_nms_of_a_model_without_predicted_iou_is_an_error() -> None:
    with pytest.raises(ConfigError, match="needs a branch with `focus: iou`") as caught:
        check_nms(_two_stage(), DetectOptions(nms="guided"))
    assert caught.value.where == "--nms"
    check_nms(_two_stage(), DetectOptions(nms="soft"))
