"""The shipped presets: that they are found, and that they say what the paper says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dhcli.config import presets
from dhcli.config.load import load_config
from dhcli.config.presets import LIGHT, find_preset, preset_names, presets_folder
from dhcli.config.schema import ConvBranch
from dhcli.errors import ConfigError

COCO = ("coco-r50", "coco-r50-ext", "coco-r101", "coco-r101-ext")


def test_the_presets_of_the_issue_are_shipped() -> None:
    wanted = {*COCO, "voc07-r50-ext", "kitti-tiny", "custom", "demo"}

    assert wanted <= set(preset_names())


def test_a_preset_is_a_few_lines_over_its_parent() -> None:
    lengths = {name: len(find_preset(name).read_text().splitlines()) for name in preset_names()}

    assert max(lengths.values()) <= 35
    assert all(load_config(name).config.about for name in preset_names())


def test_an_installed_wheel_has_its_presets_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "__file__", str(tmp_path / "dhcli/config/presets.py"))
    assert presets_folder() == tmp_path / "presets"

    (tmp_path / "dhcli/presets").mkdir(parents=True)

    assert presets_folder() == tmp_path / "dhcli/presets"


@pytest.mark.parametrize(
    ("preset", "hint"),
    [
        ("coco-r50-etx", "did you mean `coco-r50-ext` or `coco-r50-detr`?"),
        ("zzz", "`dh presets` lists them; give a file by its path, ending in .yaml"),
        ("", "`dh presets` lists them; give a file by its path, ending in .yaml"),
    ],
)
def test_an_unknown_preset(preset: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="no preset is named") as caught:
        find_preset(preset)

    assert caught.value.hint == hint


def test_a_path_is_relative_to_where_it_is_written(tmp_path: Path) -> None:
    assert find_preset("x.yaml") == Path("x.yaml")
    assert find_preset("../x.yaml", tmp_path) == tmp_path / "../x.yaml"
    assert find_preset(str(tmp_path / "x.yaml"), Path("elsewhere")) == tmp_path / "x.yaml"


@pytest.mark.parametrize("name", COCO)
def test_the_recipe_is_the_papers(name: str) -> None:
    config = load_config(name).config

    schedule, train, head = config.train.schedule, config.train, config.model.head
    assert (schedule.kind, schedule.unit) == ("step", "iteration")
    assert (schedule.length, schedule.steps, schedule.gamma) == (180_000, (120_000, 160_000), 0.1)
    assert (train.lr, train.reference_batch) == (0.01, 8)
    assert (train.batch_size, train.accumulate) == (2, 4)
    assert (train.optimizer, train.momentum, train.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (config.input.min_size, config.input.max_size) == (800, 1333)
    augment = config.augment
    assert (augment.flip, augment.min_sizes, augment.colour, augment.crop) == (0.5, (), 0, 0)
    assert (head.samples, head.positive_fraction, head.positive_iou) == (512, 0.25, 0.5)
    assert (config.model.backbone.norm, config.model.backbone.weights) == ("frozen_bn", "imagenet")
    rpn = config.model.rpn
    assert (rpn.proposals_train, rpn.proposals_per) == (2000, "batch")
    assert rpn.smooth_l1_beta == pytest.approx(1 / 9, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "backbone", "lambdas", "ap"),
    [
        ("coco-r50", "resnet50", (1.0, 1.0), 39.8),
        ("coco-r50-ext", "resnet50", (0.7, 0.8), 40.3),
        ("coco-r101", "resnet101", (1.0, 1.0), 41.5),
        ("coco-r101-ext", "resnet101", (0.7, 0.8), 41.9),
        ("voc07-r50-ext", "resnet50", (0.7, 0.8), 49.2),
    ],
)
def test_the_head_is_a_row_of_the_paper(
    name: str, backbone: str, lambdas: tuple[float, float], ap: float
) -> None:
    config = load_config(name).config

    fc, conv = config.model.head.branches
    assert isinstance(conv, ConvBranch)
    assert config.model.backbone.name == backbone
    assert (fc.omega, conv.omega) == (2.0, 2.5)
    assert (fc.lambda_, conv.lambda_) == lambdas
    assert (fc.roi_scale, conv.roi_scale) == (1.0, 1.3)
    assert (conv.residual, conv.non_local) == (3, 2)
    assert config.paper["AP"] == ap


def test_kitti_tiny_is_the_tutorials() -> None:
    config = load_config("kitti-tiny").config

    assert config.data.classes == ("Car", "Pedestrian", "Cyclist")
    assert config.data.others == "ignore"
    assert config.train.log_every == 10
    schedule = config.train.schedule
    assert (schedule.unit, schedule.length, schedule.steps) == ("epoch", 12, (8, 11))
    assert config.train.lr / config.train.reference_batch <= 0.02 / 16


def test_what_learns_from_nothing_has_no_frozen_parts() -> None:
    backbone = load_config("small").config.model.backbone

    assert (backbone.weights, backbone.norm, backbone.frozen_stages) == ("none", "gn", 0)


@pytest.mark.parametrize("name", ["light", "finetune-light", "kitti-tiny-light", "demo"])
def test_what_is_made_for_a_cpu_starts_from_the_weights_that_are_installed(name: str) -> None:
    config = load_config(name).config

    assert config.model.backbone.weights == "package"
    assert name in LIGHT
    assert [branch.kind for branch in config.model.head.branches] == ["fc", "conv"]
    assert config.model.head.scores == "complementary"


def test_all_that_descends_from_small_is_made_for_a_cpu() -> None:
    parents = {
        name: yaml.safe_load(find_preset(name).read_text()).get("extends")
        for name in preset_names()
    }

    made = {name for name in parents if "small" in _line(name, parents)}

    assert made == set(LIGHT)


def _line(name: str | None, parents: dict[str, str | None]) -> list[str]:
    """A preset and those it descends from."""
    return [] if name is None else [name, *_line(parents[name], parents)]
