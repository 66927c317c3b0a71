from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dhcli.config.load import config_from_dict, config_to_dict, dump_config, load_config
from dhcli.config.presets import preset_names
from dhcli.config.schema import Config, ConvBranch, Data, FcBranch, Finetune, Head, Train, TwoStage
from dhcli.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A parent, a child, and a file beside them."""
    (tmp_path / "parent.yaml").write_text(
        "about: the parent\npaper: {AP: 1}\ntrain: {lr: 0.1, seed: 1, momentum: 0.5}\n"
    )
    (tmp_path / "child.yaml").write_text(
        "extends: ./parent.yaml\ntrain:\n  seed: 2\n  momentum: 0.6\n"
    )
    (tmp_path / "mine.yaml").write_text("name: my run\ntrain: {momentum: 0.7}\n")
    return tmp_path


def test_each_layer_wins_over_the_one_before(folder: Path) -> None:
    resolved = load_config(
        str(folder / "child.yaml"),
        file=folder / "mine.yaml",
        overrides=["train.ema=0.5", "train.ema=0.9"],
    )

    train, origins = resolved.config.train, resolved.origins
    assert (train.weight_decay, train.lr, train.seed, train.momentum, train.ema) == (
        1e-4,
        0.1,
        2,
        0.7,
        0.9,
    )
    assert origins["train.weight_decay"] == "default"
    assert origins["train.lr"] == f"file {folder / 'parent.yaml'}:3"
    assert origins["train.seed"] == f"file {folder / 'child.yaml'}:3"
    assert origins["train.momentum"] == f"file {folder / 'mine.yaml'}:2"
    assert origins["train.ema"] == "--set"


def test_name_about_and_paper_are_a_presets_own(folder: Path) -> None:
    child = load_config(str(folder / "child.yaml")).config
    mine = load_config(str(folder / "child.yaml"), file=folder / "mine.yaml").config

    assert (child.name, child.about, child.paper) == ("child", "", {})
    assert mine.name == "my run"


def test_without_preset_and_file_the_start_is_custom() -> None:
    assert load_config().config == load_config("custom").config


def test_a_file_alone_stands_on_the_defaults(folder: Path) -> None:
    config = load_config(file=folder / "mine.yaml").config

    assert config == Config(name="my run", train=Train(momentum=0.7))


def test_a_shipped_preset_is_named_as_origin() -> None:
    origins = load_config("coco-r101-ext").origins

    assert origins["model.backbone.name"] == "preset coco-r101-ext"
    assert origins["model.head.branches.fc.lambda"] == "preset coco-r50-ext"
    assert origins["model.head.branches.fc.omega"] == "preset coco-r50"
    assert origins["model.head.branches.fc.width"] == "default"


def test_every_key_of_the_tree_has_an_origin() -> None:
    resolved = load_config("coco-r50-ext")

    lines = dump_config(resolved.config, resolved.origins).splitlines()

    assert [line for line in lines if "#" not in line and not line.endswith(":")] == []


@pytest.mark.parametrize("branch", ["fc", "0"])
def test_set_addresses_a_branch(branch: str) -> None:
    head = load_config("coco-r50", overrides=[f"model.head.branches.{branch}.omega=3"]).config

    assert [one.omega for one in head.model.head.branches] == [3.0, 2.5]


def test_set_takes_whole_sections_and_lists() -> None:
    config = load_config(
        "coco-r50",
        overrides=[
            "train.schedule={kind: cosine, length: 5}",
            "model.head.branches=[{kind: fc, lambda: 0.5}]",
            "data.classes=[no, on, 'NO', \"5\"]",
        ],
    ).config

    assert (config.train.schedule.kind, config.train.schedule.length) == ("cosine", 5)
    assert config.train.schedule.unit == "iteration"  # the mapping merged
    assert config.model.head.branches == (FcBranch(kind="fc", lambda_=0.5),)
    assert config.data.classes == ("no", "on", "NO", "5")


def test_set_reaches_free_mappings() -> None:
    config = load_config("custom", overrides=["finetune.aliases.Car=car"]).config

    assert config.finetune.aliases == {"Car": "car"}


@pytest.mark.parametrize(
    ("override", "what", "hint"),
    [
        ("train.lr", "`--set train.lr` is not written as key=value", "train.lr=0.01"),
        ("=3", "is not written as key=value", "train.lr=0.01"),
        ("train..lr=3", "is not written as key=value", "train.lr=0.01"),
        ("train.lr=[1", "--set train.lr: is not YAML", ""),
        ("train={lr: 1, lr: 2}", "--set train: the key `lr` is written twice", ""),
        ("optim.lrr=1", "unknown key `optim.lrr` in --set", "did you mean `train.lr`?"),
    ],
)
def test_a_bad_override(override: str, what: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("custom", overrides=[override])

    assert what in str(caught.value)
    assert hint in (caught.value.hint or "")


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_circle_of_parents(tmp_path: Path) -> None:
    write(tmp_path, a="extends: b.yaml", b="extends: c.yaml", c="extends: a.yaml")

    with pytest.raises(ConfigError, match="in a circle: a → b → c → a"):
        load_config(str(tmp_path / "a.yaml"))


def test_a_parent_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, a="about: x\nextends: coco-r5\n")

    with pytest.raises(ConfigError, match=r"a\.yaml:2: no preset is named `coco-r5`") as caught:
        load_config(str(tmp_path / "a.yaml"))

    assert "`coco-r50`" in (caught.value.hint or "")


def test_several_parents_are_refused(tmp_path: Path) -> None:
    write(tmp_path, a="extends: [custom, demo]\n")

    with pytest.raises(ConfigError, match="`extends` must name one preset"):
        load_config(file=tmp_path / "a.yaml")


def test_a_preset_and_a_file_with_a_parent_are_refused(tmp_path: Path) -> None:
    write(tmp_path, a="extends: custom\n")

    assert load_config(file=tmp_path / "a.yaml").config.input.min_size == 640
    with pytest.raises(ConfigError, match="the preset `demo` is given as well"):
        load_config("demo", file=tmp_path / "a.yaml")


@pytest.mark.parametrize("preset", preset_names())
def test_a_resolved_preset_reads_back_the_same(preset: str, tmp_path: Path) -> None:
    resolved = load_config(preset)
    write(tmp_path, plain=dump_config(resolved.config))
    write(tmp_path, annotated=dump_config(resolved.config, resolved.origins))

    assert load_config(file=tmp_path / "plain.yaml").config == resolved.config
    assert load_config(file=tmp_path / "annotated.yaml").config == resolved.config
    assert config_from_dict(config_to_dict(resolved.config)) == resolved.config


@settings(deadline=None)  # machines are slow at times
@given(
    st.lists(st.text(), min_size=1, max_size=4, unique=True),
    st.text(),
    st.dictionaries(st.text(min_size=1), st.text(), max_size=3),
    st.floats(min_value=1e-12, max_value=1e12),
)
def test_any_text_and_number_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    classes: list[str],
    about: str,
    aliases: dict[str, str],
    lr: float,
) -> None:
    path = tmp_path_factory.mktemp("any") / "config.yaml"
    written = Config(
        about=about,
        data=Data(classes=tuple(classes)),
        train=Train(lr=lr),
        finetune=Finetune(aliases=aliases),
    )
    path.write_bytes(dump_config(written).encode())

    assert load_config(file=path).config == written


def test_branches_of_one_kind_read_back_the_same(tmp_path: Path) -> None:
    branches = (
        FcBranch(kind="fc", name="score"),
        FcBranch(kind="fc", name="box", focus="reg", omega=2.0),
    )
    config = Config(name="double-fc", model=TwoStage(head=Head(branches=branches)))
    write(tmp_path, a=dump_config(config))

    resolved = load_config(file=tmp_path / "a.yaml", overrides=["model.head.branches.box.omega=3"])

    assert [one.omega for one in resolved.config.model.head.branches] == [1.0, 3.0]
    assert resolved.origins["model.head.branches.box.omega"] == "--set"
    assert resolved.origins["model.head.branches.score.omega"].startswith("file ")


def test_a_dictionary_is_checked_as_files_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown key `model\.hed\.x` in model\.safetensors"):
        config_from_dict({"model": {"hed": {"x": 1}}}, "model.safetensors")


def test_the_alias_lambda_is_what_is_written() -> None:
    text = dump_config(
        Config(
            model=TwoStage(head=Head(branches=(ConvBranch(kind="conv", focus="reg", lambda_=0.8),)))
        )
    )

    assert "        lambda: 0.8\n" in text
    assert "lambda_" not in text
