"""Pictures on one page."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dhcli.report.contact_sheet import GAP, LETTERS, write_contact_sheet


def test_pictures_stand_row_after_row(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, colour in zip(paths, colours, strict=True):
        Image.new("RGB", (40, 20), colour).save(path)

    write_contact_sheet(paths, tmp_path / "page.png", columns=2, width=80)

    with Image.open(tmp_path / "page.png") as page:
        assert page.size == (2 * 80 + 3 * GAP, 2 * 40 + 3 * GAP)
        centres = [(48, 28), (48 + 80 + GAP, 28), (48, 28 + 40 + GAP)]
        assert [page.getpixel(centre) for centre in centres] == colours
        assert page.getpixel((48 + 80 + GAP, 28 + 40 + GAP)) == (255, 255, 255)


def test_a_picture_of_any_shape_has_a_place(tmp_path: Path) -> None:
    shapes = [(2, 50_000), (50_000, 2), (1, 1)]

    write_contact_sheet([Image.new("RGB", size) for size in shapes], tmp_path / "a.png", width=80)

    with Image.open(tmp_path / "a.png") as page:
        assert page.size == (3 * (80 + GAP) + GAP, 160 + 2 * GAP)


def test_a_legend_stands_below_the_pictures(tmp_path: Path) -> None:
    write_contact_sheet(
        [Image.new("RGB", (40, 20), "red")], tmp_path / "page.png", width=80, legend="to ignore"
    )

    with Image.open(tmp_path / "page.png") as page:
        foot = page.crop((0, 40 + GAP, 80, page.height)).convert("L")
        assert page.height == 40 + LETTERS + 4 * GAP
        assert foot.getextrema() == (0, 255)
