"""Files that hold something else than their names say."""

import json

import pytest

from dhcli.data.formats import read_dataset
from dhcli.data.io.image import read_size
from dhcli.errors import DataError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = "\n<!DOCTYPE html><html><head></head></html>"
COCO = json.dumps({"images": [], "annotations": [], "categories": []}, indent=1)


@pytest.mark.parametrize(("text", "said"), [(POINTER, "git lfs pull"), (PAGE, "is a web page")])
@pytest.mark.parametrize("name", ["instances.json", "annotations/labels.csv"])
def test_what_came_in_place_of_annotations_is_said(lay, text, said, name):
    root = lay({name: text}, "images/a.jpg")

    for path in (root, root / name):
        with pytest.raises(DataError, match="is not a dataset of a known format") as error:
            read_dataset(path)
        assert error.value.hint.startswith(name.rpartition("/")[2])
        assert said in error.value.hint


@pytest.mark.parametrize(("text", "said"), [(POINTER, "git lfs pull"), (PAGE, "is a web page")])
def test_what_came_in_place_of_an_image_is_said(lay, text, said):
    with pytest.raises(DataError, match=rf"a\.jpg: .*{said}"):
        read_size(lay({"a.jpg": text}) / "a.jpg")


def test_json_that_was_cut_short_is_named(lay):
    root = lay({"train/_annotations.coco.json": COCO[:-30]}, "train/a.jpg")

    with pytest.raises(DataError) as error:
        read_dataset(root)

    assert error.value.hint.startswith("_annotations.coco.json ends in the midst of its JSON")


@pytest.mark.parametrize("text", ["{}", "[1]\n", "", "hello"])
def test_other_files_are_not_doubted(lay, text):
    with pytest.raises(DataError) as error:
        read_dataset(lay({"a.json": text}, "a.jpg"))

    assert error.value.hint.startswith("looked for")
