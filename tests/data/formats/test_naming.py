"""In every format: names are read again as they were written, or it is said, or refused."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dhcli.data.formats import FORMATS, read_dataset, write_dataset
from dhcli.data.formats.naming import spelled
from dhcli.data.table import make_table
from dhcli.errors import DataError


def table_of(root, classes=("a", "b"), files=("1.png", "2.png"), splits=None):
    """An image per name of `files`, each with a box of the next class."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / file, "PNG")
    count = len(files)
    labels = [k % len(classes) for k in range(count)]
    return make_table(
        root,
        files,
        [[40, 30]] * count,
        [1] * count,
        [[4, 4, 20, 20]] * count,
        labels,
        classes,
        splits={name: np.array(rows) for name, rows in (splits or {}).items()},
    )


NAMES = ["a,b", 'a"b', "a b", "#a", "=1+1", "ä", "a/b", "a;b", "%20", "12", "*", "a: b", "- a"]
NAMES += ["null", "no", "<a>&", "[a]", "a\tb", "a\nb", "a\x07b", " a ", "a\u2028b", "\ufeffa"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", [name for name in FORMATS if name != "widerface"])
def test_a_class_is_read_as_it_was_written_or_said_to_be(tmp_path, format, name):
    table = table_of(tmp_path / "in", ("x", name))

    lost = write_dataset(table, tmp_path / "out", format)

    again = read_dataset(tmp_path / "out")
    written = spelled(name, FORMATS[format].holds.blank)
    assert sorted(again.classes[label] for label in again.labels) == sorted(["x", written])
    assert (f"`{name}` as `{written}`" in "".join(lost)) == (written != name)


@pytest.mark.parametrize("classes", [("x", ""), ("x", " \n"), ("a b", "a\tb")])
def test_a_class_that_cannot_be_named_is_refused(tmp_path, classes):
    table = table_of(tmp_path / "in", classes)

    with pytest.raises(DataError, match="class `") as caught:
        write_dataset(table, tmp_path / "out", "coco")

    assert caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["my split", "fold1", "a,b", "train2", "x.y", "é", "a/b", "val"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_split_is_read_as_it_was_written_or_refused(tmp_path, format, split):
    files = ("1.png", "2.png", "3.png")
    table = table_of(tmp_path / "in", files=files, splits={"train": [0, 1], split: [2]})

    usual = split in ("train", "val", "test")
    held = {"any": True, "file": "/" not in split, "usual": usual}
    if held[FORMATS[format].holds.split_names]:
        write_dataset(table, tmp_path / "out", format)
        again = read_dataset(tmp_path / "out")
        assert {n: len(rows) for n, rows in again.splits.items()} == {"train": 2, split: 1}
    else:
        with pytest.raises(DataError, match=f"split `{split}` cannot be written") as caught:
            write_dataset(table, tmp_path / "out", format)
        assert caught.value.hint


FILES = ["a b.png", "a,b.png", "a%20b.png", "a#b.png", "ä.png", "x\udcff.png", "a\nb.png", " a.png"]
FILES += ["n" * 200 + ".png", "ü" * 100 + ".png", "=a.png", "train.png", "1.2.png"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("format", FORMATS)
def test_an_image_of_any_name_is_there_again(tmp_path, format, file):
    table = table_of(tmp_path / "in", files=(file, "3.png"), splits={"train": [0, 1]})

    write_dataset(table, tmp_path / "out", format)

    again = read_dataset(tmp_path / "out")
    assert (len(again), len(again.boxes)) == (2, 2)
    assert all(again.path(image).is_file() for image in range(2))


def test_names_of_images_stay_apart_when_they_are_made_plain(tmp_path):
    files = ("n" * 130 + "a.png", "n" * 130 + "b.png")
    table = replace(table_of(tmp_path / "in", files=files), splits={})

    write_dataset(table, tmp_path / "out", "yolo")

    assert len(read_dataset(tmp_path / "out")) == 2
