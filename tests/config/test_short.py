"""Options that are short for settings: what they change, where it is said, what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dhcli.config.keys import known_keys
from dhcli.config.load import load_config
from dhcli.config.presets import preset_names
from dhcli.config.schema import Config
from dhcli.config.short import SHORT, option_of
from dhcli.config.tree import as_tree
from dhcli.errors import ConfigError


def changed(preset: str, **options: Any) -> dict[str, Any]:
    """What the options change of a preset, by dotted key; the origin of each is the option."""
    named = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    resolved = load_config(preset, options=named)
    keys = [key for key, origin in resolved.origins.items() if origin in named]
    assert {resolved.origins[key] for key in keys} == set(named)
    return {key: value_of(resolved.config, key) for key in keys}


def value_of(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def test_every_option_is_short_for_settings_that_there_are() -> None:
    tree = as_tree(Config().model_dump(by_alias=True), "default")
    assert isinstance(tree, dict)
    known = dict(known_keys(tree, Config))

    assert {key for keys in SHORT.values() for key in keys} <= set(known)
    assert option_of("train.epochs") == "--epochs"
    assert option_of("train.momentum") is None


def test_an_option_changes_its_setting_alone_and_is_its_origin() -> None:
    assert changed("custom", epochs=7) == {"train.epochs": 7}
    assert changed("custom", batch_size=5, seed=0) == {"train.batch_size": 5, "train.seed": 0}
    assert changed("custom", workers=-1, freeze=3) == {
        "train.workers": -1,
        "model.backbone.frozen_stages": 3,
    }
    assert changed("custom", data="no: 1", cache="ram") == {
        "data.train": "no: 1",
        "train.cache": "ram",
    }


def test_the_learning_rate_is_used_as_given() -> None:
    from dhcli.training.schedule import base_rate

    config = load_config("custom", options={"--lr": 0.003, "--batch-size": 16}).config
    scaled = load_config("custom", options={"--batch-size": 16}).config

    assert base_rate(config.train, processes=4) == 0.003
    assert base_rate(scaled.train) == 0.01 * 16 / 8


@pytest.mark.parametrize("preset", preset_names())
def test_image_size_keeps_every_proportion_of_the_preset(preset: str) -> None:
    before = load_config(preset).config

    config = load_config(preset, options={"--image-size": 320}).config

    factor = 320 / before.input.min_size
    assert config.input.min_size == 320
    assert abs(config.input.max_size - before.input.max_size * factor) <= 0.5
    sizes = zip(config.augment.min_sizes, before.augment.min_sizes, strict=True)
    assert all(abs(now - then * factor) <= 0.5 for now, then in sizes)


def test_image_size_starts_from_what_the_weights_were_trained_with() -> None:
    weights = {"input": {"min_size": 200, "max_size": 400}, "augment": {"min_sizes": [100, 200]}}

    config = load_config("custom", options={"--image-size": 300}, weights=weights).config

    assert (config.input.min_size, config.input.max_size) == (300, 600)
    assert config.augment.min_sizes == (150, 300)


@pytest.mark.parametrize(
    ("option", "value", "setting"),
    [
        ("--epochs", 3, "train.epochs=4"),
        ("--epochs", 3, "train.epochs=3"),
        ("--epochs", 3, "train={epochs: 4}"),
        ("--lr", 0.1, "train.scale_lr=true"),
        ("--image-size", 320, "input.max_size=500"),
        ("--image-size", 320, "augment.min_sizes.0=500"),
        ("--data", "a", "data.train=b"),
        ("--alias", {"a": "b"}, "finetune.aliases.c=d"),
    ],
)
def test_an_option_and_set_of_one_setting_is_one_error(
    option: str, value: Any, setting: str
) -> None:
    with pytest.raises(ConfigError, match=f"{option} and `--set .*` change the same setting"):
        load_config("custom", overrides=[setting], options={option: value})


def test_other_settings_of_a_section_can_be_set_beside_an_option() -> None:
    config = load_config(
        "custom",
        overrides=["train.momentum=0.8", "input.divisor=64"],
        options={"--lr": 0.1, "--image-size": 320},
    ).config

    assert (config.train.lr, config.train.momentum, config.input.divisor) == (0.1, 0.8, 64)


def test_an_option_stands_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {epochs: 9}", "utf-8")

    resolved = load_config(file=tmp_path / "a.yaml", options={"--epochs": 2})

    assert resolved.config.train.epochs == 2
    assert resolved.origins["train.epochs"] == "--epochs"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--lr", 0.0, "`train.lr` must lie above 0, got 0.0 (--lr)"),
        ("--freeze", 9, "`model.backbone.frozen_stages` must lie in [0, 5], got 9 (--freeze)"),
        ("--image-size", 90_000, "`input.min_size` must lie in [1, 20000], got 90000 (--image-s"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_option(
    option: str, value: Any, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("custom", options={option: value})

    assert said in str(caught.value)
