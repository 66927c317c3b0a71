"""What is asked of a detector over what it is configured for."""

from __future__ import annotations

import pytest

from dhcli.config.detecting import DetectOptions
from dhcli.config.schema import Config
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
