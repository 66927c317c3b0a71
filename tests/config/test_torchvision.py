"""What the name of a detector of torchvision's brings along, and what stands above it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dhcli.config.load import config_from_dict, config_to_dict, load_config
from dhcli.errors import ConfigError

LITE = ["model.kind=torchvision", "model.name=ssdlite320_mobilenet_v3_large"]
FCOS = ["model.kind=torchvision", "model.name=fcos_resnet50_fpn"]


def test_a_name_stands_above_the_preset_and_below_its_own_layer() -> None:
    resolved = load_config("custom", overrides=[*LITE, "input.max_size=400"])

    assert (resolved.config.input.min_size, resolved.config.input.max_size) == (320, 400)
    assert resolved.config.augment.min_sizes == ()
    assert resolved.config.augment.colour == 0.2
    origins = resolved.origins
    assert origins["input.min_size"] == "torchvision ssdlite320_mobilenet_v3_large"
    assert origins["model.detect.nms_threshold"] == "torchvision ssdlite320_mobilenet_v3_large"
    assert origins["input.max_size"] == origins["model.name"] == "--set"


def test_a_file_that_names_one_may_be_changed_by_settings_or_renamed(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "model: {kind: torchvision, name: fcos_resnet50_fpn, detect: {max_detections: 7}}\n"
        "input: {min_size: 600}\n"
    )

    config = load_config(file=path, overrides=["model.detect.score_threshold=0.3"]).config
    renamed = load_config(file=path, overrides=LITE[1:]).config

    detect = config.model.detect
    assert (detect.score_threshold, detect.nms_threshold, detect.max_detections) == (0.3, 0.6, 7)
    assert (config.input.min_size, config.input.max_size) == (600, 1333)
    assert renamed.input.resize == "square"
    assert renamed.model.detect.max_detections == 300


def test_what_weights_were_trained_with_stands_above_the_name() -> None:
    source = load_config(overrides=[*FCOS, "input.min_size=640", "train.lr=0.5"]).config
    values = config_to_dict(source)

    config = load_config(
        "finetune", weights={key: values[key] for key in ("model", "input")}
    ).config

    assert config.input == source.input
    assert config.model == source.model
    assert config_from_dict(values) == source


def test_other_models_keep_what_a_preset_says() -> None:
    assert load_config("custom").config.input.min_size == 640
    assert load_config("custom", overrides=["model.kind=two_stage"]).config.input.max_size == 1066


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.kind=torchvision"], "`model.name` is missing"),
        ([*FCOS, "model.detect.gate=0.1"], "unknown key `model.detect.gate`"),
        ([*FCOS, "model.head.scores=fc"], "unknown key `model.head.scores`"),
        ([*FCOS, "model.backbone.frozen_stages=6"], "at most 5 with `fcos_resnet50_fpn`"),
        ([*LITE, "model.backbone.weights=imagenet"], "can only be `none`"),
    ],
)
def test_what_does_not_suit_it_is_named(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=settings)

    assert message in str(caught.value)
