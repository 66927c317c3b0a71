"""Pascal VOC: odd files, pixel conventions, names and lists."""

from pathlib import Path

import numpy as np
import pytest

from dhcli.data.formats import read_dataset, write_dataset
from dhcli.data.formats.voc import VOC_CLASSES
from dhcli.data.table import ANY_CLASS, Flag, make_table
from dhcli.data.tools.check import check_table
from dhcli.data.tools.scan import scan_images
from dhcli.errors import DataError

BOX = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"


def check(table, *, decode=False):
    """Everything found wrong with a dataset, its images looked at or, with `decode`, decoded."""
    return check_table(table, scan_images(table, decode=decode))


@pytest.fixture
def folder(tmp_path, draw):
    """A function from objects' XML to a VOC folder with one image, `a.jpg` of 40 × 30 pixels."""

    def make(*objects, head="<size><width>40</width><height>30</height></size>", name="a"):
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        draw(tmp_path / f"JPEGImages/{name}.jpg")
        text = f"<annotation>{head}{''.join(f'<object>{o}</object>' for o in objects)}</annotation>"
        (tmp_path / f"Annotations/{name}.xml").write_text(text, "utf-8")
        return tmp_path

    return make


def test_minus_one_on_the_minimum_only(folder):
    whole = BOX.replace(">2<", ">1<").replace(">3<", ">1<").replace(">20<", ">40<")

    table = read_dataset(folder(f"<name>cat</name>{whole}"))

    assert table.boxes.tolist() == [[0, 0, 40, 30]]
    rule = "pixels counted from 1 (no box begins at 0; `dh convert --voc-offset` decides)"
    assert table.notes[0] == rule
    assert table.extras["line"].tolist() == [1]


def test_a_zero_anywhere_means_counting_from_0(folder):
    zero = BOX.replace(">3<", ">0<")

    table = read_dataset(folder(f"<name>cat</name>{BOX}", f"<name>cat</name>{zero}"))

    assert table.boxes.tolist() == [[2, 3, 20, 30], [2, 0, 20, 30]]
    rule = "pixels counted from 0 (1 box beginning at 0; `dh convert --voc-offset` decides)"
    assert table.notes[0] == rule


@pytest.mark.parametrize(("offset", "x1"), [("0", 2), ("1", 1)])
def test_the_offset_can_be_told(folder, offset, x1):
    root = folder(f"<name>cat</name>{BOX}")

    assert read_dataset(root, voc_offset=offset).boxes[0].tolist() == [x1, x1 + 1, 20, 30]


def test_files_of_ours_count_from_1_whatever_they_hold(folder):
    head = "<source><database>Written by dh, 1-based</database></source>"

    table = read_dataset(folder(f"<name>cat</name>{BOX.replace('>2<', '>0<')}", head=head))

    assert table.boxes[0].tolist() == [-1, 2, 20, 30]


def test_tags_in_any_order_and_case_with_decimals_and_spaces(folder):
    box = "<BNDBOX><YMAX>30.25</YMAX><xmax> 20,5 </xmax>\n<Xmin>1.1</Xmin><ymin>3</ymin></BNDBOX>"

    table = read_dataset(folder(f"{box}<Name> a &amp; b </Name><Difficult>1</Difficult>"))

    assert table.boxes[0].tolist() == [0.1, 2, 20.5, 30.25]
    assert table.classes == ("a & b",)
    assert table.flags.tolist() == [Flag.DIFFICULT]


def test_marks_and_pose_are_kept(folder):
    marks = "<pose>Left</pose><truncated>1</truncated><occluded>0.4</occluded>"
    plain = "<pose>Unspecified</pose><truncated>0</truncated><difficult>Unspecified</difficult>"

    table = read_dataset(folder(*(f"<name>cat</name>{m}{BOX}" for m in (marks, plain))))

    assert table.flags.tolist() == [Flag.TRUNCATED | Flag.OCCLUDED, 0]
    assert list(table.extras["pose"]) == ["Left", ""]


def test_parts_and_attributes_do_not_disturb_their_object(folder):
    part = f"<part><name>head</name>{BOX.replace('>2<', '>9<')}</part>"
    more = "<attributes><attribute><name>colour</name></attribute></attributes>"

    table = read_dataset(folder(f"<name>person</name>{BOX}{part}{more}"))

    assert table.classes == ("person",)
    assert table.boxes[0].tolist() == [1, 2, 20, 30]
    assert "1 part of objects: not kept" in table.notes


@pytest.mark.parametrize(
    "said", ["a.jpg", "a", "a.png", "another.jpg", "../../etc/passwd", "/abs/x.jpg", ""]
)
def test_the_image_is_found_whatever_filename_says(folder, said):
    root = folder(f"<name>cat</name>{BOX}", head=f"<filename>{said}</filename>")

    assert list(read_dataset(root).files) == ["JPEGImages/a.jpg"]


def test_filename_counts_where_no_image_has_the_files_own_name(folder, tmp_path):
    root = folder(f"<name>cat</name>{BOX}", head="<filename>photo.jpg</filename>")
    (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / "JPEGImages/photo.jpg")

    assert list(read_dataset(root).files) == ["JPEGImages/photo.jpg"]


@pytest.mark.parametrize("said", ["../../secret.png", "/etc/secret.png", r"C:\x\secret.png"])
def test_a_missing_image_stays_within_the_dataset(folder, tmp_path, said):
    root = folder(f"<name>cat</name>{BOX}", head=f"<filename>{said}</filename>")
    (tmp_path / "JPEGImages/a.jpg").unlink()

    assert list(read_dataset(root).files) == ["JPEGImages/a.png"]


def test_sizes_come_from_the_file_else_from_the_image(folder):
    folder(head="<size><width>99</width><height>88</height></size>", name="told")
    folder(head="<size><width>0</width><height>0</height></size>", name="zero")

    table = read_dataset(folder(head=""))

    sizes = dict(zip(table.files, table.sizes.tolist(), strict=True))
    assert sizes["JPEGImages/told.jpg"] == [99, 88]
    assert sizes["JPEGImages/zero.jpg"] == sizes["JPEGImages/a.jpg"] == [40, 30]


def test_lists_become_splits(folder, tmp_path):
    for name in "abc":
        folder(f"<name>cat</name>{BOX}", name=name)
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(b"\xef\xbb\xbfb\r\na\r\n\r\n")
    (lists / "val.txt").write_text("c.jpg\nnowhere\n")
    (lists / "cat_train.txt").write_text("a  1\nb -1\n")

    table = read_dataset(tmp_path)

    assert {k: v.tolist() for k, v in table.splits.items()} == {"train": [1, 0], "val": [2]}
    assert "1 name in ImageSets with neither annotation nor image: left out" in table.notes


def test_lists_whose_names_mean_one_split_are_one(folder, tmp_path):
    for name in "abc":
        folder(f"<name>cat</name>{BOX}", name=name)
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "Train.txt").write_text("b\na\n")
    (lists / "training.txt").write_text("a\nc\n")
    (lists / "Validation.txt").write_text("c\n")

    table = read_dataset(tmp_path)

    assert {k: v.tolist() for k, v in table.splits.items()} == {"val": [2], "train": [1, 0, 2]}


@pytest.mark.parametrize("kind", ["voc", "kitti"])
def test_names_with_spaces_are_found_in_lists(tmp_path, draw, kind):
    names = ["cat", "cat 2", "photo (0)", "photo 1"]
    for name in names:
        draw(tmp_path / f"in/{name}.jpg")
    boxes = np.array([[3, 4, 20, 20]] * 4)
    splits = {"train": np.array([1, 2]), "val": np.array([0, 3])}
    files = [f"{name}.jpg" for name in names]
    table = make_table(
        tmp_path / "in", files, [(40, 30)] * 4, [1] * 4, boxes, [0] * 4, ("Car",), splits=splits
    )

    write_dataset(table, tmp_path / "out", kind)

    again = read_dataset(tmp_path / "out")
    stems = [Path(file).stem for file in again.files]
    found = {name: [stems[i] for i in images] for name, images in again.splits.items()}
    assert found == {"train": ["cat 2", "photo (0)"], "val": ["cat", "photo 1"]}


def test_a_list_of_a_class_is_known_by_its_flags(folder, tmp_path):
    for name in ("a", "photo 0", "photo 1"):
        folder(f"<name>cat</name>{BOX}", name=name)
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    lists = {"train": "photo 0\nphoto 1\n", "val": "a\n", "dog": "a -1\n", "cat_val": "a 1\n"}
    for name, text in lists.items():
        (tmp_path / f"ImageSets/Main/{name}.txt").write_text(text)

    table = read_dataset(tmp_path)

    assert {k: len(v) for k, v in table.splits.items()} == {"train": 2, "val": 1}


def test_a_listed_image_without_annotation_is_left_out_and_remarked(folder, tmp_path, draw):
    root = folder(f"<name>cat</name>{BOX}")
    draw(tmp_path / "JPEGImages/listed.jpg")
    draw(tmp_path / "JPEGImages/stray.jpg")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("listed\n")

    table = read_dataset(root)

    assert list(table.files) == ["JPEGImages/a.jpg"]
    assert not len(table.splits["test"])
    for where in (
        "in a list: left out: JPEGImages/listed",
        "in no list: left out: JPEGImages/stray",
    ):
        assert f"1 image without annotation file, {where}.jpg" in table.notes
    assert not any("ImageSets" in note for note in table.notes)
    assert [(remark.code, remark.where) for remark in table.remarks] == [
        ("image-unannotated", "JPEGImages/listed.jpg")
    ]


def test_an_image_with_a_file_without_objects_is_empty(folder):
    folder(f"<name>cat</name>{BOX}")

    table = read_dataset(folder(name="b"))

    assert (np.diff(table.offsets).tolist(), table.remarks) == ([1, 0], ())


def test_empty_lists_of_classes_are_no_splits(folder, tmp_path):
    root = folder(f"<name>cat</name>{BOX}")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for name, text in {"train": "a\n", "val": "", "cat_train": "", "two_dogs_val": ""}.items():
        (tmp_path / f"ImageSets/Main/{name}.txt").write_text(text)

    assert sorted(read_dataset(root).splits) == ["train", "val"]


@pytest.mark.parametrize("name", ["a.jpg", "photo.a"])
def test_files_called_after_images_with_their_suffix_leave_none_out(folder, tmp_path, name):
    root = folder(f"<name>cat</name>{BOX}", head="<filename>a.jpg</filename>")
    (tmp_path / "Annotations/a.xml").rename(tmp_path / f"Annotations/{name}.xml")

    table = read_dataset(root)

    assert list(table.files) == ["JPEGImages/a.jpg"]
    assert len(table.notes) == 1


ROBNDBOX = "<robndbox><cx>20</cx><cy>15</cy><w>10</w><h>4</h><angle>{}</angle></robndbox>"


@pytest.mark.parametrize(("angle", "box"), [(0, [15, 13, 25, 17]), (np.pi / 2, [18, 10, 22, 20])])
def test_a_turned_box_is_the_upright_one_around(folder, angle, box):
    turned = f"<type>robndbox</type><name>ship</name>{ROBNDBOX.format(angle)}"

    table = read_dataset(folder(turned, f"<name>ship</name>{BOX}"))

    np.testing.assert_allclose(table.boxes, [box, [1, 2, 20, 30]])
    assert "1 box turned (robndbox): read as the upright box around" in table.notes


def test_images_beside_their_files_in_folders_called_as_splits(folder, tmp_path):
    folder(f"<name>cat</name>{BOX}")
    for split in ("train", "valid"):
        target = tmp_path / "roboflow" / split
        target.mkdir(parents=True)
        for file in ("Annotations/a.xml", "JPEGImages/a.jpg"):
            (target / file.rpartition("/")[2]).write_bytes((tmp_path / file).read_bytes())

    table = read_dataset(tmp_path / "roboflow")

    assert list(table.files) == ["train/a.jpg", "valid/a.jpg"]
    assert {k: v.tolist() for k, v in table.splits.items()} == {"train": [0], "val": [1]}


def test_one_file_alone_is_a_dataset(folder, tmp_path):
    folder(f"<name>cat</name>{BOX}")
    folder(name="other")

    table = read_dataset(tmp_path / "Annotations/a.xml")

    assert list(table.files) == ["JPEGImages/a.jpg"]
    assert table.path(0).is_file()


def test_classes_in_vocs_order_if_all_are_vocs_else_sorted(folder):
    vocs = [f"<name>{name}</name>{BOX}" for name in ("train", "aeroplane", "dog")]
    assert read_dataset(folder(*vocs)).classes == ("aeroplane", "dog", "train")
    assert VOC_CLASSES.index("dog") == 11

    assert read_dataset(folder(*vocs, f"<name>Ant</name>{BOX}")).classes == (
        *("Ant", "aeroplane", "dog", "train"),
    )


def test_dont_care_is_no_class(folder):
    table = read_dataset(folder(f"<name>DontCare</name>{BOX}", f"<name>cat</name>{BOX}"))

    assert (table.classes, table.labels.tolist()) == (("cat",), [ANY_CLASS, 0])
    assert table.flags.tolist() == [Flag.IGNORE, 0]


@pytest.mark.parametrize(
    ("declared", "encoding", "name"),
    [
        ("utf-8", "utf-8", "café"),
        ("utf-16", "utf-16", "café"),
        ("iso-8859-1", "iso-8859-1", "café"),
        ("GBK", "gbk", "狗"),
        ("utf-16", "utf-8", "café"),  # as .NET writes it
        ("utf-8", "latin-1", "café"),
        ("gb9999", "utf-8", "café"),
    ],
)
def test_encodings_that_a_file_declares(folder, tmp_path, declared, encoding, name):
    folder()
    text = f"<annotation><object><name>{name}</name>{BOX}</object></annotation>"
    header = f'<?xml version="1.0" encoding="{declared}"?>\n'
    (tmp_path / "Annotations/a.xml").write_bytes((header + text).encode(encoding))

    assert read_dataset(tmp_path).classes == (name,)


@pytest.mark.parametrize(
    ("annotations", "images"),
    [("ANNOTATIONS", "IMAGES"), ("xml", "image"), ("annotations/xmls", "images"), ("Labels", ".")],
)
def test_folders_of_any_name_and_case(folder, tmp_path, annotations, images):
    folder(f"<name>cat</name>{BOX}")
    (tmp_path / "set" / annotations).mkdir(parents=True)
    (tmp_path / "Annotations/a.xml").rename(tmp_path / "set" / annotations / "a.xml")
    (tmp_path / "set" / images).mkdir(exist_ok=True)
    (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / "set" / images / "A.JPG")

    table = read_dataset(tmp_path / "set")

    assert table.format == "voc"
    assert table.path(0).samefile(tmp_path / "set" / images / "A.JPG")


@pytest.mark.parametrize("images", ["train", "images/train", "Test/cats"])
def test_images_in_folders_that_the_annotations_do_not_have(folder, tmp_path, images):
    root = folder(f"<name>cat</name>{BOX}")
    (tmp_path / images).mkdir(parents=True)
    (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / images / "a.jpg")

    table = read_dataset(root)

    assert list(table.files) == [f"{images}/a.jpg"]
    assert list(table.splits) == ["test" if images == "Test/cats" else "train"]


def test_an_object_without_box_or_name_is_left_to_the_check(folder):
    root = folder("<name>cat</name>", f"<name/>{BOX}", f"<name>cat</name>{BOX}")

    findings = check(read_dataset(root))

    assert [finding.code for finding in findings] == ["box-not-finite", "class-unknown"]


def test_a_strange_file_before_the_others_does_not_hide_them(folder, tmp_path):
    root = folder(f"<name>cat</name>{BOX}")
    (tmp_path / "Annotations/0.xml").write_text("<svg/>")
    (tmp_path / "Annotations/1.xml").write_text("<annotation>")

    table = read_dataset(root)

    assert list(table.files) == ["JPEGImages/a.jpg"]
    assert "1 file not of Pascal VOC: left out: 0.xml" in table.notes
    assert [(remark.code, remark.where) for remark in table.remarks] == [
        ("row-unreadable", "Annotations/1.xml:1")
    ]


def test_a_listed_file_that_cannot_be_read_is_told_once(folder, tmp_path):
    root = folder(f"<name>cat</name>{BOX}")
    (tmp_path / "Annotations/b.xml").write_text("<annotation>")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\nc\n")

    table = read_dataset(root)

    assert [remark.where for remark in table.remarks] == ["Annotations/b.xml:1"]
    assert "1 name in ImageSets with neither annotation nor image: left out" in table.notes


def test_splits_of_folders_without_their_images_are_no_larger(sample, tmp_path):
    write_dataset(sample, tmp_path / "out", "imagenet", images="none")

    table = read_dataset(tmp_path / "out")

    assert {name: rows.tolist() for name, rows in table.splits.items()} == {
        "train": [0, 1],
        "val": [2],
    }


def test_an_object_that_cannot_be_read_is_left_out(folder):
    bad = f"<name>cat</name>{BOX.replace('20', 'x')}"

    table = read_dataset(folder(bad, f"<name>cat</name>{BOX}"))

    assert len(table.boxes) == 1
    assert table.remarks[0].what.startswith("has a coordinate that is not a number")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (BOX.replace(">2<", ">5<"), "has two <xmin>, 2 and 5: an <object> is one box of one name"),
        ("<name>b</name>", "has two <name>, a and b: an <object> is one box of one name"),
    ],
)
def test_an_object_of_two_boxes_or_names_is_left_out(folder, unreadable, more, said):
    table = read_dataset(folder(f"<name>a</name>{BOX}{more}", f"<name>c</name>{BOX}{BOX}"))

    assert table.boxes.tolist() == [[1, 2, 20, 30]]
    assert unreadable(table) == [f"Annotations/a.xml:1: {said}"]


BOMB = '<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r"a\.xml:1: declares a DOCTYPE"),
        (OUTSIDE, r"a\.xml:1: declares a DOCTYPE"),
        ("<annotation>\n<object>", r"a\.xml:2: is not well-formed XML"),
        ("", r"a\.xml:1: is not well-formed XML"),
        ("<svg/>", r"a\.xml:1: begins with <svg>"),
        (
            f"<annotation><object><name>c</name>{BOX.replace('20', 'x')}</object></annotation>",
            r"a\.xml:1: has a coordinate that is not a number",
        ),
        (
            f"<annotation><object><name>c</name><score>?</score>{BOX}</object></annotation>",
            r"a\.xml:1: has a score that is not a number",
        ),
    ],
)
def test_bad_files_are_named_to_the_line(folder, tmp_path, text, said):
    root = folder()
    (tmp_path / "Annotations/a.xml").write_text(text)

    with pytest.raises(DataError, match=said):
        read_dataset(root, format="voc")


def test_names_are_escaped_when_written(folder, tmp_path):
    from dhcli.data.formats import write_dataset

    root = folder(f"<name>a &lt;b&gt; &amp;c</name>{BOX}")

    write_dataset(read_dataset(root), tmp_path / "out", "voc")

    assert read_dataset(tmp_path / "out").classes == ("a <b> &c",)


@pytest.mark.realdata
def test_written_coordinates_are_those_that_were_read(realdata, tmp_path):
    import re

    from dhcli.data.formats import write_dataset

    write_dataset(read_dataset(realdata / "bccd"), tmp_path / "out", "voc", images="none")

    numbers = re.compile(r"<([xy]m(?:in|ax))>(\d+)<")
    for file in (realdata / "bccd/Annotations").iterdir():
        mine = (tmp_path / "out/Annotations" / file.name).read_text("utf-8")
        assert numbers.findall(mine) == numbers.findall(file.read_text("utf-8"))
