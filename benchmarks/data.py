"""Reading and converting datasets beside pycocotools and Datumaro, on drawn data.

    .venv/bin/python benchmarks/data.py --datumaro /tmp/datumaro/bin/python

Each job runs in a process of its own, ours and the peer's in turn; medians and ratios are added to
`benchmarks/results/data.csv`. Memory is the growth of the process's peak.
Datumaro pins older libraries: it lives in an environment of its own, and without `--datumaro` its
rows are left out. Images are links to one file, as nothing here depends on what they show; those
that `dh check` looks at, for copies too, are files of their own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, about, add_row, peak_mb

WIDTH, HEIGHT, CLASSES = 640, 480, 80
BOXES_AN_IMAGE = 860_000 / 118_000
Report = dict[str, float]


# Drawing. Polygons come from a pool of a thousand: only their length matters.


def draw_boxes(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(M,) image of each box, sorted; (M, 4) xywh; (M,) class."""
    dice = np.random.default_rng(seed)
    count = round(images * BOXES_AN_IMAGE)
    sides = np.round(dice.random((count, 2)) * 200 + 2, 2)
    corners = np.round(dice.random((count, 2)) * ([WIDTH, HEIGHT] - sides), 2)
    owner = np.sort(dice.integers(0, images, count))
    return owner, np.hstack([corners, sides]), dice.integers(0, CLASSES, count)


def draw_masks(seed: int = 0) -> list[str]:
    dice = np.random.default_rng(seed)
    corners = np.clip(dice.exponential(18, 1000) + 4, 4, 200).astype(int)
    points = (np.round(dice.random(2 * n) * HEIGHT, 2).tolist() for n in corners.tolist())
    return [json.dumps([polygon]) for polygon in points]


def draw_coco(root: Path, images: int, *, masks: bool = True) -> Path:
    """instances_train.json as COCO's own is written, about 520 bytes a box."""
    path = root / "annotations" / "instances_train.json"
    path.parent.mkdir(parents=True)
    pool = draw_masks() if masks else ["[]"]
    with path.open("w") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        for i in range(images):
            name = f"{i:012d}.jpg"
            file.write(
                f'{", " if i else ""}{{"license": 3, "file_name": "{name}", "coco_url": '
                f'"images/train2017/{name}", "height": {HEIGHT}, "width": {WIDTH}, '
                f'"date_captured": "2013-11-14 11:18:45", "flickr_url": "static/{name}", '
                f'"id": {i + 1}}}'
            )
        file.write('], "annotations": [')
        columns = (column.tolist() for column in draw_boxes(images))
        for k, (image, box, label) in enumerate(zip(*columns, strict=True)):
            file.write(
                f'{", " if k else ""}{{"segmentation": {pool[k % len(pool)]}, '
                f'"area": {box[2] * box[3]:.4f}, "iscrowd": 0, "image_id": {image + 1}, '
                f'"bbox": {box}, "category_id": {label + 1}, "id": {k + 1}}}'
            )
        names = [{"supercategory": "any", "id": k + 1, "name": f"c{k}"} for k in range(CLASSES)]
        file.write(f'], "categories": {json.dumps(names)}}}')
    return path


def draw_voc(root: Path, images: int) -> Path:
    for image, rows in enumerate(boxes_by_image(images)):
        objects = "".join(
            f"\t<object>\n\t\t<name>c{label}</name>\n\t\t<pose>Left</pose>\n"
            "\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
            f"\t\t\t<xmin>{x:.0f}</xmin>\n\t\t\t<ymin>{y:.0f}</ymin>\n"
            f"\t\t\t<xmax>{x + w:.0f}</xmax>\n\t\t\t<ymax>{y + h:.0f}</ymax>\n"
            "\t\t</bndbox>\n\t</object>\n"
            for (x, y, w, h), label in rows
        )
        path = root / "Annotations" / f"{image:012d}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"<annotation>\n\t<folder>JPEGImages</folder>\n\t<filename>{image:012d}.jpg</filename>\n"
            "\t<source>\n\t\t<database>any</database>\n\t</source>\n\t<size>\n"
            f"\t\t<width>{WIDTH}</width>\n\t\t<height>{HEIGHT}</height>\n\t\t<depth>3</depth>\n"
            f"\t</size>\n\t<segmented>0</segmented>\n{objects}</annotation>\n"
        )
    return root


def draw_yolo(root: Path, images: int) -> Path:
    for folder in ("labels/train", "images/train"):
        (root / folder).mkdir(parents=True)
    link_images(root / "images" / "train", images)
    for image, rows in enumerate(boxes_by_image(images)):
        lines = (
            f"{label} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} "
            f"{w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
            for (x, y, w, h), label in rows
        )
        (root / "labels" / "train" / f"{image:012d}.txt").write_text("".join(lines))
    names = "".join(f"  {k}: c{k}\n" for k in range(CLASSES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{names}")
    return root


def boxes_by_image(images: int) -> Iterator[list[tuple[list[float], int]]]:
    owner, boxes, labels = draw_boxes(images)
    ends = np.searchsorted(owner, np.arange(images + 1)).tolist()
    for start, stop in pairwise(ends):
        yield list(zip(boxes[start:stop].tolist(), labels[start:stop].tolist(), strict=True))


def link_images(folder: Path, images: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    first = folder / f"{0:012d}.jpg"
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(first)
    for image in range(1, images):
        (folder / f"{image:012d}.jpg").hardlink_to(first)


def draw_photos(folder: Path, images: int) -> None:
    """JPEGs of 20 KB, told apart by a comment before their end."""
    from PIL import Image

    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (15, 20, 3), dtype=np.uint8)
    first = folder / f"{0:012d}.jpg"
    Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(first)
    photo = first.read_bytes()
    for image in range(images):
        comment = b"\xff\xfe\x00\x0e%012d" % image
        (folder / f"{image:012d}.jpg").write_bytes(photo[:-2] + comment + photo[-2:])


# Jobs. What they import is loaded before the clock starts.


def read_ours(source: Path, _: Path) -> Callable[[], Any]:
    import_module("dhcli.data.io.image")
    from dhcli.data.formats import read_dataset

    return lambda: read_dataset(source)


def read_pycocotools(source: Path, _: Path) -> Callable[[], Any]:
    from pycocotools.coco import COCO

    return lambda: COCO(str(source))


def convert_ours(source: Path, target: Path, to: str) -> Callable[[], Any]:
    import_module("dhcli.data.io.image")
    from dhcli.data.formats import read_dataset, write_dataset

    return lambda: write_dataset(read_dataset(source), target, to, images="none")


def convert_datumaro(source: Path, target: Path, of: str, to: str) -> Callable[[], Any]:
    from datumaro import Dataset

    return lambda: Dataset.import_from(str(source), of).export(str(target), to, save_media=False)


def check_ours(source: Path, _: Path) -> Callable[[], Any]:
    import_module("dhcli.cli.check")
    from dhcli.cli import app

    def check() -> None:
        try:
            app(["check", str(source)])
        except SystemExit as end:
            if end.code:
                raise

    return check


JOBS: dict[str, Callable[[Path, Path], Callable[[], Any]]] = {
    "read ours": read_ours,
    "read pycocotools": read_pycocotools,
    "check ours": check_ours,
    "to yolo ours": lambda source, target: convert_ours(source, target, "yolo"),
    "to yolo datumaro": lambda source, target: convert_datumaro(
        source, target, "coco_instances", "yolo"
    ),
    "to coco ours": lambda source, target: convert_ours(source, target, "coco"),
    "to coco datumaro": lambda source, target: convert_datumaro(
        source, target, "yolo", "coco_instances"
    ),
}


def do_job(name: str, source: Path, target: Path) -> Report:
    run = JOBS[name](source, target)
    before, begun = peak_mb(), time.perf_counter()
    found = run()
    report = {"seconds": time.perf_counter() - begun, "mb": peak_mb() - before}
    if hasattr(found, "box_ids"):
        report |= {"bytes_a_box": _column_bytes(found) / len(found.boxes)}
    return report


def _column_bytes(table: Any) -> int:
    """What a table's columns of boxes take."""
    columns = [table.boxes, table.labels, table.flags, table.areas, table.box_ids]
    for column in table.extras.values():
        columns += [column.starts, column.stops] if hasattr(column, "starts") else [column]
    return sum(column.nbytes for column in columns)


def run_job(name: str, source: Path, python: str) -> Report:
    """`name` in a fresh process."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        command = [python, __file__, "--job", name, str(source), f"{folder}/out"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(source: Path, jobs: dict[str, str], rounds: int) -> list[Report]:
    """The median reports of `jobs` (name → python), each run `rounds` times, turn by turn."""
    reports: dict[str, list[Report]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, python in jobs.items():
            reports[name].append(run_job(name, source, python))
    return [
        {key: statistics.median(report[key] for report in several) for key in several[0]}
        for several in reports.values()
    ]


def measure(options: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """The rows of the result."""
    if "coco" in options.rows:
        source = draw_coco(work / "coco", options.images)
        jobs = {"read ours": sys.executable, "read pycocotools": sys.executable}
        ours, peer = in_turn(source, jobs, options.rounds)
        yield _row("read COCO with polygons", options.images, ours, "pycocotools", peer)
        shutil.rmtree(work / "coco")
    if "check" in options.rows:
        source = work / "check"
        draw_coco(source, options.images)
        draw_photos(source / "images" / "train", options.images)
        (ours,) = in_turn(source, {"check ours": sys.executable}, options.rounds)
        yield _row("dh check, COCO with polygons", options.images, ours)
        shutil.rmtree(source)
    if "voc" in options.rows:
        source = draw_voc(work / "voc", options.images)
        (ours,) = in_turn(source, {"read ours": sys.executable}, options.rounds)
        yield _row("read VOC", options.images, ours)
        shutil.rmtree(work / "voc")
    if "convert" in options.rows:
        for to, draw in (("yolo", draw_coco), ("coco", draw_yolo)):
            source = work / f"to_{to}"
            draw(source, options.convert_images)
            if to == "yolo":
                link_images(source / "images" / "train", options.convert_images)
            jobs = {f"to {to} ours": sys.executable}
            jobs |= {f"to {to} datumaro": options.datumaro} if options.datumaro else {}
            ours, *peer = in_turn(source, jobs, options.rounds)
            what = "COCO to YOLO" if to == "yolo" else "YOLO to COCO"
            yield _row(what, options.convert_images, ours, "datumaro", *peer)
            shutil.rmtree(source)
    for images in (10_000, 100_000, 1_000_000) if "scale" in options.rows else ():
        source = draw_coco(work / "scale", images, masks=False)
        (ours,) = in_turn(source, {"read ours": sys.executable}, 1)
        yield _row("read COCO", images, ours)
        shutil.rmtree(work / "scale")


def _row(
    work: str, images: int, ours: Report, peer_name: str = "", peer: Report | None = None
) -> dict[str, Any]:
    row: dict[str, Any] = {"work": work, "images": images}
    row |= {"boxes": round(images * BOXES_AN_IMAGE)}
    row |= {"seconds": round(ours["seconds"], 3), "mb": round(ours["mb"])}
    row |= {"images_a_second": round(images / ours["seconds"])}
    row |= {"bytes_a_box": round(ours["bytes_a_box"], 1) if "bytes_a_box" in ours else ""}
    peer = peer or {}
    row |= {"peer": peer_name if peer else ""}
    row |= {f"peer_{key}": round(peer[key], 2) if peer else "" for key in ("seconds", "mb")}
    row |= {"ratio": round(ours["seconds"] / peer["seconds"], 3) if peer else ""}
    row |= {"memory_ratio": round(ours["mb"] / max(peer["mb"], 1), 3) if peer else ""}
    return row


def _datumaro_version(python: str | None) -> str:
    if python is None:
        return ""
    asked = "import importlib.metadata as m; print(', datumaro', m.version('datumaro'))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True).stdout.strip()


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        name, source, target = sys.argv[2:]
        print(json.dumps(do_job(name, Path(source), Path(target))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=["coco", "check", "voc", "convert", "scale"])
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--convert-images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datumaro", help="python of an environment with Datumaro")
    parser.add_argument("--work", type=Path, help="folder for the drawn data")
    parser.add_argument("--out", type=Path, default=RESULTS / "data.csv")
    options = parser.parse_args()
    where = about("numpy", "msgspec", "pycocotools")
    where["versions"] += _datumaro_version(options.datumaro)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for row in measure(options, Path(folder)):
            add_row(options.out, row | where)


if __name__ == "__main__":
    main()
