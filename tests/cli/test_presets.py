from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.config.load import load_config
from dhcli.config.presets import preset_names


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["presets", *arguments])
    assert result.exit_code == 0, result.stderr
    assert not result.stderr
    return result.stdout


def test_the_table_names_every_preset_with_the_papers_ap() -> None:
    lines = {line.split()[0]: line for line in invoke().splitlines() if line.strip()}

    assert set(preset_names()) <= set(lines)
    assert all(len(line) <= 100 for line in lines.values())
    assert lines["coco-r101-ext"].rstrip().endswith(" 41.9")
    assert lines["custom"].rstrip().endswith(" –")


def test_the_rows_of_a_table_of_the_paper_stand_together() -> None:
    groups = invoke().split("Table ")

    assert [group[0] for group in groups[1:]] == ["1", "2", "3", "4", "6"]
    assert [line.split()[0] for line in groups[5].splitlines()[1:] if line.strip()] == [
        "voc07-r50-fc",
        "voc07-r50-ext",
    ]
    assert groups[2].count("coco-r50-k") == 9
    assert all("coco-r50-fc " in groups[number] for number in (1, 2, 4))


def test_the_list_as_json() -> None:
    rows = {row["name"]: row for row in json.loads(invoke("--json"))}

    assert rows["coco-r50-ext"]["paper"]["AP75"] == 44.2
    assert rows["coco-r50-fc"]["paper_tables"] == [1, 2, 4]


def test_show_prints_a_configuration_with_origins(tmp_path: Path) -> None:
    printed = invoke("show", "coco-r50-ext", "--set", "train.lr=1e-3")

    (tmp_path / "saved.yaml").write_text(printed)
    saved = load_config(file=tmp_path / "saved.yaml").config
    assert saved == load_config("coco-r50-ext", overrides=["train.lr=0.001"]).config
    lr = next(line for line in printed.splitlines() if line.startswith("  lr:"))
    assert lr.split() == ["lr:", "0.001", "#", "--set"]


def test_show_as_json() -> None:
    document = json.loads(invoke("show", "demo", "--json", "--set", "train.seed=3"))

    assert document["config"]["train"]["seed"] == 3
    assert document["origins"]["train.seed"] == "--set"
    assert document["config"]["model"]["head"]["branches"][0]["lambda"] == 0.7


def test_the_schema_is_json() -> None:
    assert "extends" in json.loads(invoke("schema"))["properties"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "optim.lrr=1",
            "error: unknown key `optim.lrr` in --set\n\nhint: did you mean `train.lr`?",
        ),
        ("train.lr=-1", "error: `train.lr` must lie above 0, got -1 (--set)\n"),
    ],
)
def test_a_bad_setting_is_explained(setting: str, said: str) -> None:
    result = CliRunner().invoke(app, ["presets", "show", "custom", "--set", setting])

    assert result.exit_code == 2
    assert result.stderr.startswith(said)
    assert not result.stdout
