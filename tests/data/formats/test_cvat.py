"""CVAT's XML: images, tracks, hostile files."""

import contextlib
import re

import pytest

from dhcli.data.formats import read_dataset
from dhcli.data.table import Flag
from dhcli.errors import DataError

META = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>4</id><name>road</name><size>2</size><mode>annotation</mode>
      <labels>
        <label><name>person</name><attributes>
          <attribute><name>difficult</name><input_type>checkbox</input_type></attribute>
        </attributes></label>
        <label><name>car</name><attributes></attributes></label>
      </labels>
      <original_size><width>40</width><height>30</height></original_size>
    </task>
    <dumped>2020-03-04 21:45:38</dumped>
  </meta>
"""
IMAGES = f"""{META}
  <image id="0" name="a.jpg" subset="train" width="40" height="30">
    <box label="car" occluded="1" source="manual" xtl="4.00" ytl="5.00" xbr="20.50" ybr="25.25"
         z_order="0">
      <attribute name="difficult">true</attribute>
      <attribute name="colour">red</attribute>
    </box>
    <polygon label="person" occluded="0" points="1.0,2.0;9.0,2.0;5.0,8.0" z_order="0"></polygon>
    <box label="car" occluded="0" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90.00"></box>
    <mask label="car" occluded="0" rle="1, 2" left="3" top="4" width="5" height="6"></mask>
    <points label="person" occluded="0" points="1.0,2.0"></points>
    <tag label="car" source="manual"></tag>
  </image>
  <image id="1" name="b.jpg" width="40" height="30"></image>
</annotations>
"""


def test_shapes_of_images(lay):
    table = read_dataset(lay({"annotations.xml": IMAGES}, "images/train/a.jpg", "images/b.jpg"))

    assert table.format == "cvat"
    assert list(table.files) == ["images/train/a.jpg", "images/b.jpg"]
    assert table.classes == ("person", "car")
    boxes = [[4, 5, 20.5, 25.25], [1, 2, 9, 8], [13, 7, 17, 17], [3, 4, 8, 10]]
    assert table.boxes.round(9).tolist() == boxes
    assert table.labels.tolist() == [1, 0, 1, 1]
    assert table.flags.tolist() == [Flag.OCCLUDED | Flag.DIFFICULT, 0, 0, 0]
    assert table.splits["train"].tolist() == [0]
    assert "1 shape <box>, turned: read as the box around" in table.notes
    assert "1 shape <points>: left out" in table.notes


@pytest.mark.parametrize(
    ("turn", "box"),
    [("", [30, 35, 70, 45]), ("90", [45, 20, 55, 60]), ("30", [32.5, 29.1, 67.5, 50.9])],
)
def test_an_ellipse_lies_within_its_box_as_it_is_turned(lay, turn, box):
    rotation = f'rotation="{turn}"' if turn else ""
    shape = f'<ellipse label="car" cx="50" cy="40" rx="20" ry="5" {rotation}></ellipse>'
    text = f'{META}<image id="0" name="a.jpg" width="120" height="80">{shape}</image></annotations>'

    table = read_dataset(lay({"annotations.xml": text}, "images/a.jpg"))

    assert table.boxes.round(1).tolist() == [box]


def test_shapes_of_one_label_and_group_are_one_object(lay):
    boxes = [(1, 5, "7"), (20, 25, "7"), (30, 35, "0"), (36, 39, "0")]
    shapes = "".join(
        f'<box label="car" xtl="{x1}" ytl="2" xbr="{x2}" ybr="9" group_id="{group}"></box>'
        for x1, x2, group in boxes
    )
    text = f'{META}<image id="0" name="a.jpg" width="40" height="30">{shapes}</image></annotations>'

    table = read_dataset(lay({"annotations.xml": text}, "images/a.jpg"))

    assert table.boxes.tolist() == [[1, 2, 25, 9], [30, 2, 35, 9], [36, 2, 39, 9]]
    assert "1 object of several parts, of one class and group: one box around all" in table.notes


def test_parts_of_tracks_keep_the_first_number(lay):
    track = '<track id="{}" label="car" group_id="1"><box frame="1" outside="0" occluded="0" '
    track += 'xtl="{}" ytl="2" xbr="{}" ybr="9"></box></track>'
    text = f"{META}{track.format(4, 1, 5)}{track.format(6, 10, 15)}</annotations>"

    table = read_dataset(lay({"annotations.xml": text}, "images/frame_000001.jpg"))

    assert table.boxes.tolist() == [[1, 2, 15, 9]]
    assert table.extras["track"].tolist() == [4]


TRACKS = f"""{META}
  <track id="0" label="person" source="manual">
    <box frame="1" outside="0" occluded="0" keyframe="1" xtl="1" ytl="2" xbr="3" ybr="4"></box>
    <box frame="2" outside="0" occluded="1" keyframe="0" xtl="2" ytl="2" xbr="4" ybr="4"></box>
    <box frame="3" outside="1" occluded="0" keyframe="1" xtl="3" ytl="2" xbr="5" ybr="4"></box>
  </track>
  <track id="5" label="car">
    <box frame="1" outside="0" occluded="0" keyframe="1" xtl="9" ytl="9" xbr="19" ybr="19"></box>
  </track>
</annotations>
"""


def test_tracks_through_frames(lay):
    images = [f"images/frame_{number:06d}.jpg" for number in range(4)]

    table = read_dataset(lay({"annotations.xml": TRACKS}, *images))

    assert list(table.files) == images
    assert table.sizes.tolist() == [[40, 30]] * 4
    assert table.offsets.tolist() == [0, 0, 2, 3, 3]
    assert table.boxes.tolist() == [[1, 2, 3, 4], [9, 9, 19, 19], [2, 2, 4, 4]]
    assert table.extras["track"].tolist() == [0, 5, 0]
    assert table.flags.tolist() == [0, 0, Flag.OCCLUDED]


def test_frames_without_numbers_go_by_their_place(lay):
    table = read_dataset(lay({"annotations.xml": TRACKS}, "images/a.jpg", "images/b.jpg"))

    assert list(table.files) == ["images/a.jpg", "images/b.jpg", "images/frame_000002.png"]


BOMB = '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{BOMB}<annotations><image name='&b;'/></annotations>", "declares a DOCTYPE"),
        (f"{OUTSIDE}<annotations><image name='&x;'/></annotations>", "declares a DOCTYPE"),
        ("<annotations><image name='a'>", "not well-formed XML"),
        ("<annotations><image id='1'/></annotations>", "an <image> has no `name`"),
        (
            "<annotations><image name='a'><box label='b'/></image></annotations>",
            "a <box> has no `xtl`",
        ),
        (TRACKS.replace('frame="', 'frame="-'), "a <box> has a value that cannot be used"),
        ("<other><annotations /></other>", "begins with <other>"),
        ("", "XML"),
    ],
)
def test_what_is_wrong_is_said(lay, text, said):
    with pytest.raises(DataError, match=said):
        read_dataset(lay({"annotations.xml": text}) / "annotations.xml", format="cvat")


@pytest.mark.parametrize(
    ("subset", "split"), [("Train", "train"), ("Validation", "val"), ("night", "night")]
)
def test_subsets_called_as_splits_are_these(lay, subset, split):
    text = IMAGES.replace('subset="train"', f'subset="{subset}"')

    table = read_dataset(lay({"annotations.xml": text}, f"images/{subset}/a.jpg", "images/b.jpg"))

    assert {name: images.tolist() for name, images in table.splits.items()} == {split: [0]}


@pytest.mark.parametrize("name", ["../../etc/a.jpg", "/etc/a.jpg", "&#10;a.jpg"])
def test_names_and_subsets_stay_within_the_dataset(lay, name):
    image = f"<image name='{name}' subset='../..' width='4' height='3'></image>"

    table = read_dataset(lay({"annotations.xml": f"<annotations>{image}</annotations>"}))

    assert table.path(0).resolve().is_relative_to(table.root)


@pytest.mark.parametrize("text", [IMAGES, TRACKS], ids=["images", "tracks"])
@pytest.mark.parametrize("value", ["", "x", "-1", "1e308", "nan", "../..", "1,2;3", "9" * 400])
def test_any_attribute_may_be_anything(lay, tmp_path, text, value):
    lay({"annotations.xml": ""}, "images/a.jpg")

    for found in re.finditer(r'="([^"]*)"', text[len(META) :]):
        start, stop = (len(META) + at for at in found.span(1))
        (tmp_path / "annotations.xml").write_text(text[:start] + value + text[stop:])
        with contextlib.suppress(DataError):
            table = read_dataset(tmp_path)
            assert all(table.path(i).is_relative_to(tmp_path) for i in range(len(table)))
