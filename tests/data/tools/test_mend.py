"""Every flaw drawn: it is found under its code, and gone from what `--fix` writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from dhcli.data.formats import read_dataset, write_dataset
from dhcli.data.table import FIRST_PIXEL
from dhcli.data.tools.check import check_table, fit_to_images, turn_boxes
from dhcli.data.tools.findings import CODES
from dhcli.data.tools.mend import fit_to_files, mend_for_good, mend_for_training
from dhcli.data.tools.scan import scan_images
from dhcli.errors import DataError


def check(table, *, decode=False):
    """Everything found wrong with a dataset, its images looked at or, with `decode`, decoded."""
    return check_table(table, scan_images(table, decode=decode))


@pytest.fixture
def coco(tmp_path, rng):
    """A function that writes a COCO folder: images by split, boxes [id, image, class, x, y, w, h].

    Image n of 40 × 30 pixels is `n.png`; `sizes` are what the file says of them.
    """

    def write(splits, boxes, classes=("cat", "dog"), sizes=None):
        root = tmp_path / "in"
        (root / "annotations").mkdir(parents=True)
        for number in sorted({n for images in splits.values() for n in images}):
            pixels = rng.integers(0, 255, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(root / f"{number}.png")
        for split, images in splits.items():
            told = {
                "images": [image(n, *(sizes or {}).get(n, (40, 30))) for n in images],
                "annotations": [annotation(*box) for box in boxes if box[1] in images],
                "categories": [{"id": k, "name": name} for k, name in enumerate(classes, 1)],
            }
            path = root / f"annotations/instances_{split}.json"
            path.write_text(json.dumps(told), "utf-8")
        return root

    return write


def image(number, width, height):
    return {"id": number, "file_name": f"{number}.png", "width": width, "height": height}


def annotation(number, image, category, *bbox):
    row = {"image_id": image, "category_id": category, "bbox": bbox}
    return row if number is None else row | {"id": number}


def codes_of(table):
    return {finding.code for finding in check(table, decode=True)}


ONE = {"train": [1, 2], "val": [3]}
SOUND = [(1, 1, 1, 1, 2, 9, 9), (2, 1, 2, 4, 4, 8, 8), (3, 2, 1, 5, 5, 9, 9), (4, 2, 2, 1, 1, 9, 9)]
SOUND += [(5, 3, 1, 3, 3, 9, 9), (6, 3, 2, 2, 2, 8, 8)]
"""Boxes of two classes in each of three images."""

FLAWED_BOXES = {
    "id-zero": (0, 1, 1, 9, 9, 9, 9),
    "id-repeated": (2, 2, 1, 9, 9, 9, 9),
    "box-not-finite": (9, 1, 1, float("nan"), 9, 9, 9),
    "box-inverted": (9, 1, 1, 9, 9, -3, 9),
    "box-empty": (9, 1, 1, 9, 9, 0, 9),
    "box-outside": (9, 1, 1, 50, 9, 9, 9),
    "box-thin": (9, 1, 1, 9, 9, 0.5, 9),
    "box-over-edge": (9, 1, 1, 9, 9, 60, 9),
    "box-duplicate": (9, 1, 1, 1, 2, 9, 9),
    "class-unknown": (9, 1, 7, 9, 9, 9, 9),
}


@pytest.mark.parametrize("code", FLAWED_BOXES)
def test_a_flawed_box_is_found_and_mended(coco, tmp_path, code):
    table = read_dataset(coco(ONE, [*SOUND, FLAWED_BOXES[code]]))

    assert codes_of(table) == {code}
    assert codes_of(fixed(table, tmp_path)) == set()


def test_exchanged_corners_of_files_from_1_are_those_of_the_file(coco):
    table = read_dataset(coco(ONE, [*SOUND, (9, 1, 1, 8, 9, -4, 9)]))
    row = int(np.flatnonzero(table.boxes[:, 0] == 8)[0])  # 9 and 4 in a file from 1

    mended = mend_for_good(
        replace(table, about={FIRST_PIXEL: "1"}), scan_images(table, decode=False)
    )

    assert table.boxes[row].tolist() == [8, 9, 4, 18]
    assert [3, 9, 9, 18] in mended.boxes.tolist()


def fixed(table, tmp_path):
    """The mended table, after it was written and read again."""
    mended = mend_for_good(table, scan_images(table, decode=True))
    write_dataset(mended, tmp_path / "out", table.format)
    return read_dataset(tmp_path / "out")


@pytest.fixture
def with_areas(coco):
    """A function that gives a COCO table in which every box states an area of a mask: 7."""

    def read(*boxes):
        root = coco(ONE, [*SOUND, *boxes])
        path = root / "annotations/instances_train.json"
        told = json.loads(path.read_text("utf-8"))
        for row in told["annotations"]:
            row["area"] = 7.0
        path.write_text(json.dumps(told), "utf-8")
        return read_dataset(root)

    return read


RESIZED = {
    "over the right edge": ((9, 1, 1, 9, 9, 60, 9), [9, 9, 40, 18]),
    "over the left edge": ((9, 1, 1, -5, 9, 12, 9), [0, 9, 7, 18]),
    "of exchanged corners": ((9, 1, 1, 9, 9, -3, 9), [6, 9, 9, 18]),
}


@pytest.mark.parametrize("what", RESIZED)
def test_a_box_of_another_size_states_no_area(with_areas, tmp_path, what):
    drawn, left = RESIZED[what]
    table = with_areas(drawn)
    scan = scan_images(table, decode=False)

    learned, _ = mend_for_training(table, scan, on_bad_image="error")
    again = fixed(table, tmp_path)

    for mended, stated in ((learned, np.nan), (again, (left[2] - left[0]) * (left[3] - left[1]))):
        row = mended.boxes.tolist().index(left)
        np.testing.assert_array_equal(mended.areas[row], stated)
        assert np.sum(mended.areas == 7) == 4


def test_a_box_that_rounding_takes_over_the_edge_keeps_its_area(with_areas):
    table = with_areas((9, 1, 1, 30, 9, 10.4, 9))

    mended = mend_for_good(table, scan_images(table, decode=False))

    assert [30, 9, 40, 18] in mended.boxes.tolist()
    assert np.sum(mended.areas == 7) == 5


def spoil_missing(root):
    (root / "2.png").unlink()


def spoil_unreadable(root):
    (root / "2.png").write_bytes((root / "2.png").read_bytes()[:-500])


def spoil_duplicate(root):
    (root / "2.png").write_bytes((root / "1.png").read_bytes())


def spoil_leak(root):
    (root / "3.png").write_bytes((root / "1.png").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "code", "left"),
    [
        (spoil_missing, "image-missing", ["1.png", "3.png"]),
        (spoil_unreadable, "image-unreadable", ["1.png", "3.png"]),
        (spoil_duplicate, "image-duplicate", ["1.png", "3.png"]),
        (spoil_leak, "split-leak", ["2.png", "3.png"]),
    ],
)
def test_a_flawed_image_is_found_and_left_out(coco, tmp_path, spoil, code, left):
    root = coco(ONE, SOUND)
    spoil(root)
    table = read_dataset(root)

    again = fixed(table, tmp_path)

    assert codes_of(table) == {code}
    assert codes_of(again) == set()
    assert [name.removeprefix("images/") for name in again.files] == left


def test_an_image_listed_in_two_splits_stays_where_it_is_measured_on(coco, tmp_path):
    table = read_dataset(coco({"train": [1, 2], "val": [2, 3], "test": [3]}, SOUND))

    again = fixed(table, tmp_path)

    assert codes_of(table) == {"split-leak"}
    assert codes_of(again) == set()
    assert {name: len(rows) for name, rows in again.splits.items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }


def test_the_size_told_is_mended(coco, tmp_path):
    table = read_dataset(coco(ONE, SOUND, sizes={2: (400, 300)}))

    again = fixed(table, tmp_path)

    assert codes_of(table) == {"image-size"}
    assert codes_of(again) == set()
    np.testing.assert_array_equal(again.boxes, table.boxes)


HALVED = dict.fromkeys((1, 2, 3), (80, 60))
AT_FULL_SIZE = [(n, (n + 1) // 2, 1 + n % 2, 30, 20, 40 - n, 30) for n in range(1, 7)]


def test_boxes_of_images_that_were_halved_are_halved(coco, tmp_path):
    table = read_dataset(coco(ONE, AT_FULL_SIZE, sizes=HALVED))

    again = fixed(table, tmp_path)

    assert codes_of(table) == {"image-resized"}
    assert codes_of(again) == set()
    np.testing.assert_array_equal(again.boxes, table.boxes / 2)
    assert again.sizes.tolist() == [[40, 30]] * 3


def test_one_image_proves_that_all_were_halved(coco):
    small = [box for box in SOUND if box[1] != 3]
    table = read_dataset(coco(ONE, [*small, *AT_FULL_SIZE[4:]], sizes=HALVED))

    fitted = fit_to_images(table, scan_images(table, decode=False))

    np.testing.assert_array_equal(fitted.table.boxes, table.boxes / 2)


def test_boxes_of_images_that_were_doubled_are_doubled(coco, tmp_path):
    boxes = [(n, image, 1, 1, 2, 9, 9) for n, image in enumerate((1, 2, 3), 1)]
    table = read_dataset(coco(ONE, boxes, sizes=dict.fromkeys((1, 2, 3), (20, 15))))

    again = fixed(table, tmp_path)

    assert "image-resized" in codes_of(table)
    np.testing.assert_array_equal(again.boxes, table.boxes * 2)


@pytest.mark.parametrize("told", [(80, 30), (80, 100)])
def test_boxes_and_image_that_disagree_are_mended_neither(coco, tmp_path, told):
    table = read_dataset(coco(ONE, [*SOUND[:4], *AT_FULL_SIZE[4:]], sizes={3: told}))

    again = fixed(table, tmp_path)

    assert "image-disagrees" in codes_of(table)
    assert "image-disagrees" in codes_of(again)
    assert again.sizes[2].tolist() == list(told)
    with pytest.raises(DataError, match=r"3\.png: .*its boxes do not fit"):
        mend_for_training(table, scan_images(table, decode=False), on_bad_image="error")
    learned, _ = mend_for_training(table, scan_images(table, decode=False), on_bad_image="skip")
    assert list(learned.files) == ["1.png", "2.png"]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_drawn_before_exif_turned_the_image_are_turned(coco, tmp_path, orientation):
    root = coco(ONE, SOUND)
    turn(root / "1.png", orientation)
    table = read_dataset(root)

    again = fixed(table, tmp_path)

    assert codes_of(table) == {"image-turned"}
    assert codes_of(again) == set()
    assert again.sizes[0].tolist() == [30, 40]
    expected = turn_boxes(table.boxes[:2], orientation, (40, 30))
    np.testing.assert_array_equal(again.boxes[:2], expected)
    fitted, (said,) = fit_to_files(table)
    np.testing.assert_array_equal(fitted.boxes, again.boxes)
    assert said.startswith("image-turned (1): ")
    assert fit_to_files(again)[1] == []


def turn(path, orientation):
    """Have EXIF turn the image at `path`."""
    with Image.open(path) as picture:
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(path, exif=exif)


@pytest.mark.parametrize(("orientation", "size"), [(2, (40, 30)), (3, (40, 30)), (6, (30, 30))])
@pytest.mark.parametrize("other", [6, 1])
def test_where_boxes_were_drawn_before_a_turn_so_were_those_whose_size_tells_nothing(
    coco, orientation, size, other
):
    root = coco(ONE, SOUND, sizes={2: size})
    Image.new("RGB", size).save(root / "2.png")
    turn(root / "2.png", orientation)
    turn(root / "1.png", other)
    table = read_dataset(root)

    fitted, _ = fit_to_files(table)

    expected = turn_boxes(table.boxes[2:4], orientation, size) if other == 6 else table.boxes[2:4]
    np.testing.assert_array_equal(fitted.boxes[2:4], expected)
    assert fitted.sizes[1].tolist() == list(size)
    np.testing.assert_array_equal(fitted.boxes[4:], table.boxes[4:])


def test_boxes_of_an_image_whose_size_is_not_told_are_not_turned(coco):
    root = coco(ONE, SOUND)
    for number, orientation in ((1, 6), (2, 3)):
        turn(root / f"{number}.png", orientation)
    table = read_dataset(root)
    sizes = table.sizes.copy()
    sizes[1] = 0

    fitted, _ = fit_to_files(replace(table, sizes=sizes))

    np.testing.assert_array_equal(fitted.boxes[2:4], table.boxes[2:4])
    assert fitted.sizes[1].tolist() == [40, 30]


def test_where_other_boxes_were_drawn_after_a_turn_nothing_is_guessed(coco):
    root = coco(ONE, SOUND, sizes={3: (30, 40)})
    for number, orientation in ((1, 6), (2, 3), (3, 6)):
        turn(root / f"{number}.png", orientation)
    table = read_dataset(root)

    fitted, _ = fit_to_files(table)

    np.testing.assert_array_equal(fitted.boxes[2:], table.boxes[2:])


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_turned_boxes_lie_on_the_turned_pixels(orientation):
    canvas = Image.new("L", (40, 30))
    canvas.paste(255, (3, 5, 12, 9))
    exif = canvas.getexif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(canvas)

    turned = turn_boxes(np.array([[3.0, 5.0, 12.0, 9.0]]), orientation, (40, 30))

    assert turned.tolist() == [list(upright.getbbox())]


def test_spellings_become_one_and_unused_classes_go(coco, tmp_path):
    boxes = [*SOUND, (9, 1, 3, 20, 20, 9, 9)]
    table = read_dataset(coco(ONE, boxes, classes=("cat", "dog", "D og", "owl")))

    again = fixed(table, tmp_path)

    assert codes_of(table) == {"class-spelling", "class-unused", "split-class"}
    assert codes_of(again) == set()
    assert again.classes == ("cat", "dog")
    assert np.bincount(again.labels).tolist() == [3, 4]


def test_what_is_not_mended_is_named_all_the_same(coco, tmp_path):
    table = read_dataset(coco({"train": [1, 2, 4], "val": [3]}, SOUND[:5]))

    found = check(table)

    assert {f.code: (f.where, f.what) for f in found} == {
        "image-empty": ("4.png", "has no box"),
        "split-class": ("class dog", "none of its 2 boxes is in `val`"),
    }
    assert codes_of(fixed(table, tmp_path)) == {f.code for f in found}


def test_images_in_no_split_are_counted(coco):
    from dataclasses import replace

    table = read_dataset(coco({"train": [1, 2, 3]}, SOUND))
    table = replace(table, splits={"train": np.array([0, 1])})

    assert [(f.code, f.what) for f in check(table)] == [("image-unsplit", "1 image in no split")]


def test_ids_may_come_again_in_another_file(coco):
    boxes = [(number % 4, *rest) for number, *rest in SOUND if number % 4]

    assert not {f.code for f in check(read_dataset(coco(ONE, boxes)))} & {"id-repeated"}


def test_masks_go_where_boxes_are_turned_only(coco, tmp_path):
    root = coco({"train": [1, 2]}, SOUND)
    path = root / "annotations/instances_train.json"
    told = json.loads(path.read_text("utf-8"))
    for row in told["annotations"]:
        row["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    told["images"][0] |= {"width": 40, "height": 30}
    path.write_text(json.dumps(told), "utf-8")
    with Image.open(root / "1.png") as picture:
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(root / "1.png", exif=exif)

    fixed(read_dataset(root), tmp_path)

    told = json.loads((tmp_path / "out/annotations/instances_train.json").read_text("utf-8"))
    masks = {row["id"]: bool(row["segmentation"]) for row in told["annotations"]}
    assert masks == {1: False, 2: False, 3: True, 4: True}


def test_fixing_changes_nothing_in_place(coco):
    table = read_dataset(coco(ONE, [*SOUND, FLAWED_BOXES["box-over-edge"]]))
    before, scan = table.boxes.copy(), scan_images(table, decode=False)

    mend_for_good(table, scan)

    np.testing.assert_array_equal(table.boxes, before)
    assert {f.code for f in check_table(table, scan)} == {"box-over-edge"}


@pytest.fixture
def with_bad_rows(lay):
    """A folder of YOLO's with two images, and two rows in it that cannot be read."""
    labels = {"labels/a.txt": "0 .5 .5 .5 .5\n0 .5 .5\n", "labels/b.txt": "0 .5 .5 .2 .2\nx\n"}
    return lay({**labels, "classes.txt": "cat\n"}, "images/a.png", "images/b.jpg")


def test_rows_that_cannot_be_read_are_found_and_left_out(with_bad_rows, tmp_path):
    table = read_dataset(with_bad_rows)

    found = [f.where for f in check(table) if f.code == "row-unreadable"]

    assert found == ["labels/a.txt:2", "labels/b.txt:2"]
    assert codes_of(fixed(table, tmp_path)) == set()


def test_rows_that_cannot_be_read_stop_training_unless_it_skips(with_bad_rows):
    table = read_dataset(with_bad_rows)
    scan = scan_images(table, decode=False)

    with pytest.raises(
        DataError, match=r"labels/a\.txt:2: expected .* \(and 1 row more\)"
    ) as caught:
        mend_for_training(table, scan, on_bad_image="error")
    mended, findings = mend_for_training(table, scan, on_bad_image="skip")

    assert "data.on_bad_image=skip" in caught.value.hint
    assert len(mended.boxes) == 2
    assert [f.code for f in findings if f.code == "row-unreadable"] == ["row-unreadable"] * 2


def test_every_code_has_a_drawn_flaw():
    elsewhere = {"dataset-empty", "anchor-recall"}  # test_checks.py, test_anchor_recall.py
    here = {"image-missing", "image-unreadable", "image-duplicate", "split-leak", "image-size"}
    here |= {"image-turned", "class-spelling", "class-unused", "split-class", "image-empty"}
    here |= {"image-unsplit", "image-resized", "image-disagrees"}
    here |= {"row-unreadable", "image-unannotated"}  # which readers remark
    read_by_a_rule = {"image-depth", "image-bands", "image-frames", "image-unended"}

    assert set(FLAWED_BOXES) | here | elsewhere | read_by_a_rule == set(CODES)
