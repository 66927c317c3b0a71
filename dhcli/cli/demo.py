"""`dh demo`: every step once, as a user would type it, on a dataset that it draws."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from dhcli.cli.options import Device, Overwrite

IMAGES = 400
"""Images drawn; a fifth of them is never trained on."""
SHOWN = 12
"""Pictures on the overview."""


def demo(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder for everything the demo makes."),
    ] = Path("demo"),
    device: Device = "auto",
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random seed of the dataset and the training.")
    ] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Try every step on a small drawn dataset, in a few minutes without a GPU.

    Draws images of shapes among clutter, trains a small Double-Head-Ext on them from ImageNet
    weights that are installed with dh, evaluates it on images it has not seen, and draws what it
    finds there.

    For example:
      dh demo
      dh demo --out /tmp/demo --seed 1

    """
    begun = time.perf_counter()
    _make_room(out, overwrite=overwrite)
    _draw(out / "shapes", seed)
    _train(out, device, seed)
    average = _evaluate(out, device)
    _predict(out, device)
    _sum_up(out, average, time.perf_counter() - begun)


def _make_room(out: Path, *, overwrite: bool) -> None:
    from dhcli.atomic import require_free, write_error

    require_free(out, overwrite=overwrite)
    try:
        if out.is_dir():
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error) from error


def _draw(folder: Path, seed: int) -> None:
    from dhcli.data.shapes import draw_shapes
    from dhcli.report.console import err

    err.rule("1 of 4: a dataset")
    draw_shapes(folder, images=IMAGES, seed=seed)
    err.print(f"drew {IMAGES} images to {folder}, as Pascal VOC")


def _train(out: Path, device: str, seed: int) -> None:
    from dhcli.cli.train import train

    data, run = out / "shapes", out / "run"
    _announce("2 of 4: training", "train", "--preset", "demo", "--data", data, "--out", run)
    train(data=data, preset="demo", out=run, seed=seed, device=device)


def _evaluate(out: Path, device: str) -> float:
    """AP50 on the images that were set aside."""
    import json

    from dhcli.cli.eval import eval_

    data, weights, folder = out / "shapes", out / "run/best.safetensors", out / "evaluation"
    words = ("eval", "--weights", weights, "--data", data, "--split", "val", "--out", folder)
    _announce("3 of 4: evaluation", *words)
    eval_(data=data, weights=weights, split="val", out=folder, device=device)
    report = json.loads((folder / "metrics.json").read_text("utf-8"))
    return float(report["metrics"]["coco"]["stats"]["AP50"])


def _predict(out: Path, device: str) -> None:
    from dhcli.cli.predict import predict
    from dhcli.report.contact_sheet import write_contact_sheet

    names = (out / "shapes/ImageSets/Main/val.txt").read_text("utf-8").split()
    folder, weights = out / "shapes/JPEGImages", out / "run/best.safetensors"
    paths = [str(next(folder.glob(f"{name}.*"))) for name in names]
    found = out / "predictions"
    _announce("4 of 4: prediction", "predict", "--weights", weights, folder / "…", "--out", found)
    predict(images=paths, weights=[weights], out=found, device=device)
    write_contact_sheet(sorted((found / "drawn").iterdir())[:SHOWN], out / "overview.png")


def _sum_up(out: Path, average: float, seconds: float) -> None:
    from dhcli.atomic import atomic_write
    from dhcli.report.console import err

    lines = [
        f"AP50 on unseen images: {average * 100:.1f} %, after {seconds:.0f} s in all",
        f"what it finds:     {out / 'overview.png'} (all of them: {out / 'predictions/drawn'})",
        f"how it learned:    {out / 'run/curves.png'}",
        f"how good it is:    {out / 'evaluation/metrics.json'}",
        f"the model itself:  {out / 'run/best.safetensors'}",
    ]
    with atomic_write(out / "summary.txt") as file:
        file.write("\n".join([*lines, ""]).encode())
    err.rule("done")
    for line in lines:
        err.print(line)


def _announce(title: str, *words: object) -> None:
    from dhcli.report.console import err

    err.rule(title)
    err.print(f"$ dh {shlex.join(str(word) for word in words)}", style="bold", highlight=False)
