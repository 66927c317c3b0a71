"""`import dhcli`: a model, datasets and their measures from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dhcli
from dhcli import Model
from dhcli.data.io.image import read_image
from dhcli.data.shapes import CLASSES, draw_shapes
from dhcli.errors import ConfigError, DataError, DhError, ModelError
from dhcli.weights.model_file import ModelFile, save_model
from tests.commands import dh


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawn photos of a VOC dataset, the last two for validation."""
    return draw_shapes(tmp_path_factory.mktemp("api") / "photos", images=10, seed=0, size=(96, 64))


@pytest.fixture(scope="module")
def weights(
    tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., ModelFile]
) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_model(path, small_model(*CLASSES))
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> Model:
    return dhcli.load(weights, device="cpu")


def odd_images(folder: Path, rng: np.random.Generator) -> list[Path]:
    """A turned JPEG, 16-bit grey, grey, a palette and transparency: what needs rules."""
    folder.mkdir()
    colours = rng.integers(0, 256, (40, 60, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(colours).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(rng.integers(0, 4096, (40, 60), np.uint16)).save(folder / "deep.png")
    Image.fromarray(colours[..., 0]).save(folder / "grey.png")
    Image.fromarray(colours).quantize(16).save(folder / "palette.png")
    Image.fromarray(np.dstack([colours, colours[..., :1]])).save(folder / "clear.png")
    return sorted(folder.iterdir())


def predicted(weights: Path, images: Path, out: Path, *options: str) -> dict[str, Any]:
    """The rows of `dh predict`, by image."""
    dh("predict", "--weights", weights, images, "--out", out, "--no-draw", *options)
    rows = json.loads((out / "predictions.bbox.json").read_text())
    return {
        name: [(row["category_id"], row["bbox"], row["score"]) for row in rows
               if row["image_id"] == name]
        for name in {row["image_id"] for row in rows}
    }  # fmt: skip


def rounded(result: dhcli.Result) -> list[Any]:
    """A result as `dh predict` writes it."""
    rows = zip(
        result.boxes.astype(float).tolist(), result.scores.astype(float).tolist(), result.labels,
        strict=True,
    )  # fmt: skip
    return [
        (k + 1, [round(side, 3) for side in (x1, y1, x2 - x1, y2 - y1)], round(score, 6))
        for (x1, y1, x2, y2), score, k in rows
    ]


def plain(evaluation: dhcli.Evaluation) -> Any:
    """What `dh eval --json` prints of it."""
    return json.loads(json.dumps(evaluation.as_dict()))


@pytest.mark.parametrize(
    "options", [{}, {"score_threshold": 0.32}, {"top_k": 7}, {"batch_size": 3}]
)
def test_the_detections_are_those_of_dh_predict(
    model: Model, weights: Path, tmp_path: Path, rng: np.random.Generator, options: dict[str, Any]
) -> None:
    files = odd_images(tmp_path / "odd", rng)
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]

    found = {Path(one.image).name: rounded(one) for one in model(files, **options)}

    assert found == predicted(weights, tmp_path / "odd", tmp_path / "out", *words)
    assert all(found.values())


def test_arrays_and_opened_images_give_what_their_files_give(
    model: Model, tmp_path: Path, rng: np.random.Generator
) -> None:
    for file in odd_images(tmp_path / "odd", rng):
        of_file = model(file)
        with Image.open(file) as lazy:
            others = [*model([read_image(file), lazy, lazy]), model(str(file))]

        for other in others:
            np.testing.assert_array_equal(other.boxes, of_file.boxes)
            np.testing.assert_array_equal(other.scores, of_file.scores)
            assert other.names == of_file.names
            assert other.size == of_file.size


def test_grey_and_deep_arrays_are_read_by_the_rules_of_files(
    model: Model, tmp_path: Path, rng: np.random.Generator
) -> None:
    odd_images(tmp_path / "odd", rng)
    for name in ("grey.png", "deep.png"):
        values = np.asarray(Image.open(tmp_path / "odd" / name))
        before = values.copy()

        of_file, *others = model([tmp_path / "odd" / name, values, values[..., None]])

        assert all(np.array_equal(one.boxes, of_file.boxes) for one in others)
        assert np.array_equal(values, before)


def test_a_result_has_the_stated_shapes_types_and_units(model: Model, photos: Path) -> None:
    file = photos / "JPEGImages/000001.jpg"

    one = model(str(file), top_k=5)

    assert (one.image, one.size, len(one)) == (str(file), (96, 64), 5)
    assert (one.boxes.shape, one.boxes.dtype) == ((5, 4), np.float32)
    assert (one.scores.shape, one.scores.dtype) == ((5,), np.float32)
    assert (one.labels.shape, one.labels.dtype) == ((5,), np.int64)
    assert one.names == [model.classes[label] for label in one.labels]
    assert (np.diff(one.scores) <= 0).all()
    assert (one.boxes >= 0).all()
    assert (one.boxes <= [96, 64, 96, 64]).all()


def test_one_image_gives_a_result_and_a_sequence_a_list(model: Model, photos: Path) -> None:
    file = photos / "JPEGImages/000001.jpg"

    mixed = model([file, read_image(file), Image.open(file)])

    assert isinstance(model(file), dhcli.Result)
    assert [one.image for one in mixed] == [str(file), "image 2", "image 3"]
    assert [len(model(one)) for one in ([file], (file,), iter([file]), [])] == [1, 1, 1, 0]
    assert len(none := model(file, score_threshold=1.0)) == 0
    assert repr(none) == f"<Result: nothing; in {file}, 96 × 64>"
    assert f"1 {(one := model(file, top_k=1)).names[0]}; in" in repr(one)


def test_the_table_has_the_detections_under_the_names_of_the_files(
    model: Model, photos: Path
) -> None:
    files = [photos / "JPEGImages/000002.jpg", photos / "Annotations/../JPEGImages/000001.jpg"]

    table = model.predict([*files, np.zeros((8, 9, 3), np.uint8)], top_k=4)
    every = model(files, top_k=4)

    assert (table.root, list(table.files)) == (
        photos.resolve() / "JPEGImages",
        ["000002.jpg", "000001.jpg", "image 3"],
    )
    assert table.sizes.tolist() == [[96, 64], [96, 64], [9, 8]]
    assert (table.classes, table.category_ids.tolist()) == (CLASSES, [1, 2, 3, 4, 5])
    for number, one in enumerate(every):
        rows = table.rows(number)
        assert np.array_equal(table.boxes[rows], one.boxes)
        assert table.scores is not None
        assert np.array_equal(table.scores[rows], one.scores)
        assert np.array_equal(table.labels[rows], one.labels)
    assert len(model.predict([])) == 0


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("none.jpg", "none.jpg: no such image"),
        ("empty.jpg", "empty.jpg: is an empty file"),
        (".", ".: is a folder, not an image"),
        (np.zeros((3, 8, 8), np.uint8), r"image 1: is an array of shape \(3, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "image 1: is an array of shape"),
        (np.zeros((8, 8, 4), np.uint8), "image 1: is an array of shape"),
        (np.zeros((0, 8, 3), np.uint8), "image 1: is an array of shape"),
        (np.zeros((8, 8, 3), np.float32), "image 1: is an array of float32, not uint8"),
        ([3], "image 1: is neither a path nor an array nor a Pillow image"),
        (b"\xff\xd8\xff", "image 1: is neither a path .*, but of <class 'bytes'>"),
        (BytesIO(b"\xff\xd8"), "image 1: is neither a path .*, but of <class '_io.BytesIO'>"),
        (None, "image 1: is neither a path .*, but of <class 'NoneType'>"),
    ],
)
def test_what_is_no_image_is_one_error_of_one_line(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jpg").touch()

    with pytest.raises(DataError, match=said) as raised:
        model(image)

    assert "\n" not in str(raised.value)


def test_a_damaged_image_that_pillow_opened_is_named(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    content = (photos / "JPEGImages/000001.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])

    with pytest.raises(DataError, match="image 2: cannot be read"):
        model([content_image(photos), Image.open(tmp_path / "cut.jpg")])


def content_image(photos: Path) -> Image.Image:
    return Image.open(photos / "JPEGImages/000001.jpg")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score_threshold": 1.5}, "score_threshold: must be between 0 and 1, not 1.5"),
        ({"score_threshold": float("nan")}, "score_threshold: must be between 0 and 1"),
        ({"top_k": 0}, "top_k: must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size: must be at least 1, not 0"),
        ({"top_k": 1.5}, "top_k: must be a whole number, not 1.5"),
        ({"score_threshold": [0.5]}, r"score_threshold: must be a number, not \[0.5\]"),
    ],
)
def test_an_option_out_of_its_range_is_an_error(
    model: Model, photos: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        model(photos / "JPEGImages/000001.jpg", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cuda:77"}, "there is no `cuda:77` here"),
        ({"precision": "fp8"}, "unknown precision `fp8`"),
        ({"gate": 2}, "gate: must be between 0 and 1"),
        ({"across_classes": 2}, "across_classes: must be between 0 and 1"),
        ({"scores": "rpn"}, "rpn"),
        ({"image_size": 0}, "image_size: must be at least 1, not 0"),
        ({"image_size": "64"}, "image_size: must be a whole number, not '64'"),
    ],
)
def test_a_model_that_cannot_be_had_so_is_an_error(
    weights: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        dhcli.load(weights, **options)


def test_it_sees_images_of_the_size_that_is_asked_for(
    weights: Path, small_model: Callable[..., ModelFile], photos: Path, tmp_path: Path
) -> None:
    file = small_model(*CLASSES)
    pixels = file.config.input.model_copy(update={"min_size": 48, "max_size": 72})
    smaller = replace(file, config=file.config.model_copy(update={"input": pixels}))
    save_model(tmp_path / "smaller.safetensors", smaller)
    image = photos / "JPEGImages/000001.jpg"

    found = dhcli.load(weights, device="cpu", image_size=48)(image)
    usual = dhcli.load(weights, device="cpu")(image)
    written = predicted(weights, image, tmp_path / "out", "--image-size", "48")
    measured, expected = (
        dh("eval", *words, "--data", photos, "--device", "cpu", "--workers", "0", "--json").stdout
        for words in (
            ("--weights", weights, "--image-size", "48"),
            ("--weights", tmp_path / "smaller.safetensors"),
        )
    )

    same = dhcli.load(tmp_path / "smaller.safetensors", device="cpu")(image)
    assert np.array_equal(found.boxes, same.boxes)
    assert not np.array_equal(found.boxes, usual.boxes)
    assert list(written.values()) == [rounded(found)]
    assert json.loads(measured)["metrics"] == json.loads(expected)["metrics"]


def test_a_run_folder_stands_for_its_best_model(weights: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(ModelError, match="is a folder"):
        dhcli.load(run)
    (run / "best.safetensors").symlink_to(weights)

    model = dhcli.load(str(run), device="cpu")

    assert model.classes == CLASSES
    assert model.config.input.max_size == 96


def test_the_read_out_is_chosen_when_the_model_is_loaded(
    weights: Path, model: Model, photos: Path
) -> None:
    file = photos / "JPEGImages/000001.jpg"

    fc = dhcli.load(weights, device="cpu", scores="fc", boxes="fc")
    measured = dh("eval", "--weights", weights, "--data", photos, "--scores", "fc", "--boxes", "fc",
                  "--device", "cpu", "--workers", "0", "--json")  # fmt: skip

    assert not np.array_equal(model(file).scores, fc(file).scores)
    assert plain(dhcli.evaluate(fc, photos)) == json.loads(measured.stdout)


@pytest.mark.parametrize(
    "options", [{}, {"split": "train", "top_k": 20}, {"split": "all", "top_k": 200}]
)
def test_a_model_is_measured_to_the_numbers_of_dh_eval(
    model: Model, weights: Path, photos: Path, options: dict[str, Any]
) -> None:
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    result = dh("eval", "--weights", weights, "--data", photos, "--metric", "coco,voc07",
                "--device", "cpu", "--workers", "0", "--json", *words)  # fmt: skip
    said: list[str] = []

    evaluation = dhcli.evaluate(
        model, str(photos), metric=("coco", "voc07"), say=said.append, **options
    )

    expected = json.loads(result.stdout)
    assert plain(evaluation) == expected
    assert evaluation.stats["AP50"] == expected["metrics"]["coco"]["stats"]["AP50"]
    assert set(evaluation.per_class) == set(CLASSES)
    assert any(line.startswith("evaluating ") for line in said)


def test_detections_are_measured_from_a_table_and_from_files(
    model: Model, weights: Path, photos: Path, tmp_path: Path
) -> None:
    val = dhcli.read_dataset(photos, split="val")
    predicted(weights, photos / "JPEGImages", tmp_path / "out")
    expected = dhcli.evaluate(model, photos)

    table = model.predict(val.path(image) for image in range(len(val)))
    files = dhcli.evaluate(tmp_path / "out/predictions.bbox.json", photos)

    again, whole = plain(dhcli.evaluate(table, photos)), plain(expected)
    assert again.pop("calibration")["ece"] == pytest.approx(whole.pop("calibration")["ece"])
    assert again == whole
    assert plain(dhcli.evaluate(table, val))["metrics"] == plain(expected)["metrics"]
    assert files.stats == pytest.approx(expected.stats, abs=1e-6, nan_ok=True)


def test_measuring_what_cannot_be_measured_is_an_error(model: Model, photos: Path) -> None:
    truth = dhcli.read_dataset(photos)

    with pytest.raises(DataError, match="boxes without scores"):
        dhcli.evaluate(truth, photos)
    with pytest.raises(ConfigError, match="unknown metric `map`"):
        dhcli.evaluate(model, photos, metric="map")
    with pytest.raises(DataError, match="no split `test`"):
        dhcli.evaluate(model, photos, split="test")
    with pytest.raises(ConfigError, match="workers: must be at least -1"):
        dhcli.evaluate(model, photos, workers=-2)
    with pytest.raises(DataError, match="is a model, not detections") as raised:
        dhcli.evaluate("best.safetensors", photos)
    assert "dhcli.load" in str(raised.value.hint)


def test_a_dataset_is_read_as_the_commands_read_it(photos: Path, tmp_path: Path) -> None:
    table = dhcli.read_dataset(str(photos))

    assert (table.format, len(table), set(table.classes)) == ("voc", 10, set(CLASSES))
    assert repr(table) == f"<DetectionTable: 10 images, {len(table.boxes)} boxes, 5 classes>"
    assert len(dhcli.read_dataset(photos, split="val")) == 2
    with pytest.raises(DataError, match="no split `vall`"):
        dhcli.read_dataset(photos, split="vall")
    with pytest.raises(ConfigError, match="unknown format `cocoo`"):
        dhcli.read_dataset(photos, format="cocoo")
    with pytest.raises(DataError, match="no such dataset"):
        dhcli.read_dataset(tmp_path / "none")


def test_what_is_wrong_with_a_dataset_is_told(tmp_path: Path) -> None:
    photos = draw_shapes(tmp_path / "photos", images=3, seed=1, size=(64, 48))
    (photos / "JPEGImages/000002.jpg").unlink()

    found = dhcli.check_dataset(dhcli.read_dataset(photos))

    missing = [one for one in found if one.code == "image-missing"]
    assert [(one.where, one.severity) for one in missing] == [("JPEGImages/000002.jpg", "error")]


def test_the_hint_of_an_error_is_a_note_of_it() -> None:
    error = DhError("no", where="a.txt:3", hint="do this")

    assert (str(error), error.__notes__) == ("a.txt:3: no", ["hint: do this"])


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_package_alone_imports_nothing_and_has_every_name() -> None:
    code = (
        "import __future__, sys, typing; before = set(sys.modules); import dhcli; "
        "print(*sorted(set(sys.modules) - before), sorted(set(dhcli.__all__) - set(dir(dhcli))))"
    )

    assert run_python(code) == "dhcli []"
    assert set(dhcli.__all__) == set(dhcli.api.__all__)
    assert (Path(dhcli.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute `loda`"):
        dhcli.loda  # noqa: B018


def test_the_api_is_there_before_torch_is(photos: Path) -> None:
    code = (
        "import sys; from dhcli import load, read_dataset; "
        f"table = read_dataset({str(photos)!r}); "
        "print(load.__name__, len(table), {'torch', 'rich', 'matplotlib'} & set(sys.modules))"
    )

    assert run_python(code) == "load 10 set()"
