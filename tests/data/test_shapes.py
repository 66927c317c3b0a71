from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhcli.data.formats import read_dataset
from dhcli.data.io.image import read_image
from dhcli.data.shapes import CLASSES, DISTRACTORS, draw_image, draw_shapes, shapes_table
from dhcli.data.table import Flag
from dhcli.errors import DhError


def test_table_describes_the_images_it_drew(tmp_path: Path) -> None:
    table = shapes_table(tmp_path, images=10, seed=0, size=(160, 120))

    assert table.classes == CLASSES
    assert [read_image(table.path(i)).shape for i in range(10)] == [(120, 160, 3)] * 10
    assert table.splits["train"].tolist() == list(range(8))
    assert table.splits["val"].tolist() == [8, 9]
    assert (table.boxes[:, :2] >= 0).all()
    assert (table.boxes[:, 2:] <= (160, 120)).all()
    assert (table.boxes[:, 2:] - table.boxes[:, :2] >= 1).all()


def test_same_seed_same_images_and_another_seed_others(tmp_path: Path) -> None:
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        tables.append(shapes_table(tmp_path / name, images=3, seed=seed, size=(160, 120)))

    content = [[table.path(i).read_bytes() for i in range(3)] for table in tables]

    assert content[0] == content[1]
    assert np.array_equal(tables[0].boxes, tables[1].boxes)
    assert len(set(content[0] + content[2])) == 6


def test_every_class_in_every_colour_size_and_fate(tmp_path: Path) -> None:
    table = shapes_table(tmp_path, images=40, seed=0)

    counts = np.bincount(table.labels, minlength=len(CLASSES))
    widths = table.boxes[:, 2] - table.boxes[:, 0]
    assert counts.min() > 0.6 * counts.mean()
    assert np.percentile(widths, 95) > 2.5 * np.percentile(widths, 5)
    assert table.has(Flag.TRUNCATED).mean() > 0.05
    assert 0 < table.has(Flag.DIFFICULT).mean() < 0.1
    assert not set(CLASSES) & set(DISTRACTORS)


@pytest.mark.parametrize("kind", CLASSES)
def test_boxes_are_tight_around_what_is_to_be_seen(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One object on an even ground: the box is where the pixels differ."""
    from dhcli.data import shapes

    monkeypatch.setattr(shapes, "CLASSES", (kind,))
    monkeypatch.setattr(shapes, "OBJECTS", (1, 1))
    monkeypatch.setattr(shapes, "_draw_clutter", lambda *_: None)
    monkeypatch.setattr(shapes, "_draw_line", lambda *_, **__: None)
    monkeypatch.setattr(shapes, "_photograph", lambda _, canvas: canvas.reduce(shapes.SCALE))
    monkeypatch.setattr(
        shapes, "_background", lambda _, width, height: Image.new("RGB", (width, height), "white")
    )
    for seed in range(8):
        drawn = draw_image(np.random.default_rng(seed), (160, 120))
        changed = (np.asarray(drawn.image) != 255).any(axis=2)

        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert drawn.boxes.tolist() == [seen]


def test_dataset_is_pascal_voc_that_reads_back(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    table = shapes_table(tmp_path / "plain", images=5, seed=2, size=(160, 120))

    folder = draw_shapes(tmp_path / "voc", images=5, seed=2, size=(160, 120))
    again = read_dataset(folder)

    assert again.format == "voc"
    assert {name: len(again.splits[name]) for name in ("train", "val")} == {"train": 4, "val": 1}
    assert np.array_equal(again.boxes, table.boxes)
    assert [again.classes[i] for i in again.labels] == [CLASSES[i] for i in table.labels]
    assert np.array_equal(again.flags, table.flags)


def test_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()

    with pytest.raises(DhError):
        draw_shapes(tmp_path, images=1, seed=0)

    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
