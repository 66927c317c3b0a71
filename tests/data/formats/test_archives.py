"""Archives are not unpacked: what to type is said, and what seems to be inside."""

import zipfile

import pytest

from dhcli.data.formats import read_dataset
from dhcli.errors import DataError


@pytest.fixture
def pack(tmp_path):
    """A function that makes a zip file of empty files."""

    def pack_names(*names):
        path = tmp_path / "my photos.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "")
        return path

    return pack_names


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("annotations/instances_val.json", " (it looks like COCO inside)"),
        ("train/_annotations.coco.json", " (it looks like COCO inside)"),
        ("data.yaml", " (it looks like YOLO inside)"),
        ("VOC/Annotations/a.xml", " (it looks like Pascal VOC inside)"),
        ("annotations.xml", " (it looks like CVAT inside)"),
        ("a.jpg", ""),
    ],
)
def test_a_zip_file_is_refused_with_what_to_type(pack, name, guess):
    path = pack("b.jpg", name)

    with pytest.raises(DataError) as caught:
        read_dataset(path)

    assert caught.value.what == f"is packed, and must be unpacked first{guess}"
    folder = path.with_suffix("")
    assert caught.value.hint == f"type unzip '{path}' -d '{folder}'"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a.tar.gz", "mkdir {0}/a && tar -xf {0}/a.tar.gz -C {0}/a"),
        ("a.TGZ", "mkdir {0}/a && tar -xf {0}/a.TGZ -C {0}/a"),
        ("instances.json.gz", "gunzip -k {0}/instances.json.gz"),
        ("a.7z", "7z x {0}/a.7z -o{0}/a"),
        ("a.zip", "unzip {0}/a.zip -d {0}/a"),
    ],
)
@pytest.mark.parametrize("as_folder", [False, True])
def test_other_archives_and_folders_that_hold_one(tmp_path, name, command, as_folder):
    (tmp_path / name).write_bytes(b"\x1f\x8b no matter")

    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path if as_folder else tmp_path / name)

    begins = "unpack it first:" if as_folder else "type"
    assert caught.value.hint == f"{begins} {command.format(tmp_path)}"


def test_a_dataset_beside_its_archive_is_read(lay):
    root = lay({"labels.csv": "cat,4,5,16,20,a.jpg,40,30\n", "all.zip": "PK"}, "a.jpg")

    assert len(read_dataset(root)) == 1
