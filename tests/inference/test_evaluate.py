"""Running a detector over a dataset, with one that reads its answer off the image."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dhcli.inference.evaluate as module
from dhcli.config.detecting import AS_CONFIGURED
from dhcli.config.schema import Config, Data, Input
from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import make_table
from dhcli.errors import DataError
from dhcli.inference.evaluate import detect_tables, evaluate_model
from dhcli.inference.score import Measures
from dhcli.models.contract import Detector
from dhcli.ops.batch import Detections
from dhcli.runtime.eager import EagerRunner

SIZES = [(60, 40), (40, 60), (64, 40), (40, 64), (50, 50), (60, 40), (42, 60)]
SMALL = Input(min_size=32, max_size=64)
CPU = torch.device("cpu")


class Brightness(Detector):
    """Finds one object in every image brighter than 15: all of it, scored by its brightness."""

    def detect(self, images, options=AS_CONFIGURED):
        assert not self.training
        assert not torch.is_grad_enabled()
        found = []
        for pixels, (h, w), (height, width) in zip(
            images.pixels, images.sizes.tolist(), images.originals.tolist(), strict=True
        ):
            bright = pixels[:, :h, :w].float().mean() / 255
            seen = torch.tensor([[0.0, 0.0, width, height]])[: int(bright > 15 / 255)]
            labels = torch.ones(len(seen), dtype=torch.int64)
            found.append(Detections(seen, bright.expand(len(seen)), labels))
        return [found for _ in options.read_outs or [None]]


def runner_of(detector, classes=("dog", "cat")):
    ids = tuple(range(1, len(classes) + 1))
    return EagerRunner(detector, Config(input=SMALL), classes, ids, CPU)


def detect_table(detector, table, loader, classes=("dog", "cat"), progress=None):
    return detect_tables(runner_of(detector, classes), table, loader, progress=progress)[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A COCO dataset of plain grey images, each an object as big as the image; image 0 is dark."""
    images, annotations = [], []
    for number, size in enumerate(SIZES):
        Image.new("RGB", size, (30 * number,) * 3).save(tmp_path / f"{number}.png")
        images.append(
            {"id": 100 - number, "file_name": f"{number}.png", "width": size[0], "height": size[1]}
        )
        annotations.append(
            {"id": number, "image_id": 100 - number, "category_id": 7, "bbox": [0, 0, *size]}
        )
    categories = [{"id": 7, "name": "cat"}, {"id": 42, "name": "dog"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations.json").write_text(json.dumps(document), "utf-8")
    return tmp_path


@pytest.fixture
def table(folder):
    files = [f"{number}.png" for number in range(len(SIZES))]
    return make_table(folder, files, SIZES, [0] * len(SIZES), [], [], ("dog", "cat"))


def loader_of(table, batch_size=2):
    return EvalLoader(table, SMALL, batch_size=batch_size, workers=0)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_detections_stand_with_their_images(table, batch_size) -> None:
    found = detect_table(Brightness(), table, loader_of(table, batch_size))

    assert np.diff(found.offsets).tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert found.boxes.tolist() == [[0, 0, *size] for size in SIZES[1:]]
    assert found.scores == pytest.approx([30 * n / 255 for n in range(1, 7)], abs=1e-6)
    assert found.labels.tolist() == [1] * 6
    assert found.classes == ("dog", "cat")
    assert list(found.files) == list(table.files)
    assert np.array_equal(found.image_ids, table.image_ids)


def test_classes_of_the_detector_can_be_named(table) -> None:
    found = detect_table(Brightness(), table, loader_of(table), classes=("a", "b", "c"))

    assert found.classes == ("a", "b", "c")
    assert found.category_ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize("training", [True, False])
def test_detector_keeps_its_mode(table, training) -> None:
    detector = Brightness().train(training)

    detect_table(detector, table, loader_of(table))

    assert detector.training is training


def test_progress_counts_images(table) -> None:
    seen = []

    detect_table(
        Brightness(), table, loader_of(table, 3),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip

    assert seen[-1] == (7, 7)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_no_images_are_no_detections(table) -> None:
    none = table.take_images(np.zeros(0, np.int64))

    found = detect_table(Brightness(), none, loader_of(none))

    assert len(found) == len(found.boxes) == len(found.scores) == 0


def test_an_unreadable_image_is_named_and_the_mode_kept(table, folder) -> None:
    (folder / "3.png").write_bytes(b"no image")
    detector = Brightness().train()

    with pytest.raises(DataError, match=r"3\.png"):
        detect_table(detector, table, loader_of(table))

    assert detector.training


@pytest.fixture
def use_model(monkeypatch):
    """Make every model file hold Brightness with the given classes."""

    def use(classes, others="error"):
        config = Config(input=SMALL, data=Data(others=others))
        runner = replace(runner_of(Brightness().eval(), classes), config=config)
        monkeypatch.setattr(module, "open_runner", lambda *_: runner)

    return use


def test_evaluate_model_matches_classes_by_name(folder, use_model) -> None:
    use_model(("bird", "cat"))  # label 1 is cat; in the data it is class 0 of id 7
    said = []

    [evaluation] = evaluate_model(
        Path("m"),
        folder,
        Measures(),
        batch_size=2,
        workers=0,
        say=said.append,
    ).values()

    result = evaluation.results["coco"]
    assert result.per_class["cat"]["AR100"] == pytest.approx(6 / 7)
    assert result.stats["AP50"] == pytest.approx(87 / 101, abs=0.01)
    assert list(result.per_class) == ["cat"]
    assert evaluation.found.category_ids[evaluation.found.labels].tolist() == [7] * 6
    assert any("does not know these classes: `dog`" in line for line in said)
    assert any("does not have these classes: `bird`" in line for line in said)


def test_no_class_in_common_is_said_before_anything_is_detected(folder, use_model) -> None:
    use_model(("car", "bus"))
    counted = []

    with pytest.raises(DataError, match="no class in common"):
        evaluate_model(
            Path("m"), folder, Measures(), workers=0,
            say=lambda _: None, progress=lambda *done: counted.append(done),
        )  # fmt: skip

    assert not counted


def test_an_unreadable_image_is_an_error_that_says_how_to_find_all(folder, use_model) -> None:
    use_model(("cat",))
    (folder / "3.png").write_bytes(b"no image")

    with pytest.raises(DataError, match=r"3\.png") as caught:
        evaluate_model(Path("m"), folder, Measures(), workers=0, say=lambda _: None)

    assert "dh check --decode" in str(caught.value.hint)
