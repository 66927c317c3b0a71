"""`dh predict --side-by-side`: one picture per image with what several models find."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.inference.writers import Prediction
from dhcli.report.draw import PANEL, colour_of, write_panels
from dhcli.weights.model_file import ModelFile, save_model


@pytest.fixture
def folder(
    tmp_path: Path,
    small_model: Callable[..., ModelFile],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A working folder with two models, whose classes are in part the same, and two photos."""
    save_model(tmp_path / "first.safetensors", small_model("Car", "Cyclist"))
    save_model(tmp_path / "second.safetensors", small_model("Cyclist", "Tram", seed=1))
    (tmp_path / "photos").mkdir()
    for name in ("1.jpg", "2.png"):
        pixels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


BOTH = ("--weights", "first.safetensors", "--weights", "second.safetensors", "--side-by-side")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["predict", "photos", "--device", "cpu", *words])


def test_each_image_becomes_one_picture_with_a_panel_for_each_model(folder: Path) -> None:
    result = run(*BOTH, "--out", "out", "--score-threshold", "0.05")

    assert result.exit_code == 0, result.stderr
    files = sorted(p.relative_to("out").as_posix() for p in Path("out").rglob("*") if p.is_file())
    assert files == ["drawn/1.jpg", "drawn/2.png"]
    with Image.open("out/drawn/2.png") as picture:
        assert picture.width > 2 * 80
        assert 60 < picture.height < 2 * 60
    table = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert {"class", "Car", "Cyclist", "Tram", "all"} <= set(table)
    assert table["class"].split() == ["class", "first", "second"]
    assert "first: drawn from score 0.05, on cpu" in result.stderr


@pytest.mark.parametrize("how", [BOTH, BOTH[:2]])
def test_every_image_has_a_picture_of_its_own(folder: Path, how: tuple[str, ...]) -> None:
    Image.open("photos/1.jpg").save("photos/2.bmp")
    Path("photos/1.jpg").rename("photos/2.bmp.jpg")

    assert run(*how, "--out", "out").exit_code == 0

    names = sorted(path.name for path in Path("out/drawn").iterdir())
    assert names == ["2.bmp.jpg", "2.bmp_2.jpg", "2.png"]


def test_json_has_what_each_model_found(folder: Path) -> None:
    result = run(*BOTH, "--json", "--classes", "Cyclist", "--score-threshold", "0.05")

    told = json.loads(result.stdout)
    assert list(told) == ["first", "second"]
    assert told["first"]["images"] == told["second"]["images"] == 2
    assert told["first"]["drawn"]["Car"] == told["second"]["drawn"]["Tram"] == 0
    assert sum(one["drawn"]["Cyclist"] for one in told.values()) > 0


def test_an_image_that_cannot_be_read_is_named_once(folder: Path) -> None:
    (folder / "photos/3.jpg").touch()

    result = run(*BOTH)

    assert result.exit_code == 1
    assert result.stderr.count("3.jpg") == 1
    assert "1 of 3 images could not be read" in result.stderr
    assert len(list(Path("predictions/drawn").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (BOTH[:4], "--weights: 2 models are given, but predictions are those of one"),
        (BOTH[2:], "--side-by-side: compares several models"),
        (
            (*BOTH, "--format", "csv"),
            "--side-by-side: draws pictures only, and cannot be combined with --format",
        ),
        (
            (*BOTH, "--no-draw", "--scores", "fc"),
            "--side-by-side: draws pictures only, and cannot be combined with --scores, --no-draw",
        ),
        ((*BOTH, "--classes", "Tran"), "the model knows no class `Tran`"),
        ((*BOTH, "--score-threshold", "best"), "--score-threshold"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    words: tuple[str, ...], said: str, folder: Path
) -> None:
    result = run(*words)

    assert result.exit_code == 2 or words[-1] == "best"
    [line] = [one for one in result.stderr.splitlines() if one.startswith("error: ")]
    assert said in line
    assert not Path("predictions").exists()


def _found(name: str, label: int, size: tuple[int, int], box: list[float]) -> Prediction:
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    return Prediction(name, size, np.array([box]), np.array([0.9]), np.array([label]), pixels)


def test_boxes_are_drawn_in_the_smaller_picture_where_they_are(tmp_path: Path) -> None:
    size = (2 * PANEL, PANEL)
    one = _found("a.png", 1, size, [600.0, 400.0, 1400.0, 800.0])

    write_panels([("a", one), ("b", one)], ["x", "y"], tmp_path / "a.png")

    page = np.asarray(Image.open(tmp_path / "a.png"))
    rows, columns = np.nonzero((page == colour_of(1)).all(2))
    left = columns[columns < page.shape[1] // 2]
    assert abs(int(left.max()) - int(left.min()) - 400) <= 6
    assert 200 <= int(rows.max()) - int(rows.min()) <= 240  # the label is above


@pytest.mark.parametrize(
    ("models", "rows", "columns"), [(2, 1, 2), (3, 1, 3), (4, 2, 2), (10, 3, 4)]
)
def test_many_panels_make_a_square(models: int, rows: int, columns: int, tmp_path: Path) -> None:
    one = _found("a.png", 0, (100, 100), [10.0, 10.0, 50.0, 50.0])

    write_panels([("model", one)] * models, ["x"], tmp_path / "a.png")

    with Image.open(tmp_path / "a.png") as page:
        assert columns * 100 < page.width < columns * 130
        assert rows * 100 < page.height < rows * 150 + 20


@pytest.mark.parametrize(("models", "rows", "columns"), [(2, 2, 1), (3, 3, 1), (4, 2, 2)])
def test_few_panels_of_a_wide_image_stand_one_above_the_other(
    models: int, rows: int, columns: int, tmp_path: Path
) -> None:
    one = _found("a.png", 0, (330, 100), [10.0, 10.0, 50.0, 50.0])

    write_panels([("model", one)] * models, ["x"], tmp_path / "a.png")

    with Image.open(tmp_path / "a.png") as page:
        assert columns * 330 < page.width < columns * 360
        assert rows * 100 < page.height < rows * 150 + 20
