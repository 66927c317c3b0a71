"""`dh predict` on a folder: how much of the wall time is the detector's, and what memory it takes.

    .venv/bin/python benchmarks/folder.py --images 1000
    .venv/bin/python benchmarks/folder.py --preset demo --images 100 1000 10000 --side 64

Random weights of `--preset` on drawn JPEGs (links to a few files). The share is the time within
`EagerRunner.detect` over that from the first image to the last result; each number of images runs
in a process of its own. Rows are added to `benchmarks/results/folder.csv`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import RESULTS, about, add_row, peak_mb

DRAWN = 8


def draw(folder: Path, images: int, side: int) -> None:
    """JPEGs of two shapes, of smooth noise."""
    dice = np.random.default_rng(0)
    folder.mkdir()
    for number in range(images):
        path = folder / f"{number:06d}.jpg"
        if number >= DRAWN:
            path.hardlink_to(folder / f"{number % DRAWN:06d}.jpg")
            continue
        noise = Image.fromarray(dice.integers(0, 256, (12, 16, 3), np.uint8))
        shape = (side, side * 3 // 4) if number % 2 else (side * 3 // 4, side)
        noise.resize(shape, Image.Resampling.BICUBIC).save(path, quality=90)


def do_job(preset: str, images: int, side: int) -> dict[str, Any]:
    import torch

    from dhcli.config.load import load_config
    from dhcli.inference.predict import Request, predict
    from dhcli.models.build import build_detector
    from dhcli.runtime.eager import EagerRunner
    from dhcli.weights.model_file import ModelFile, save_model

    torch.manual_seed(0)
    config = load_config(preset, overrides=["model.backbone.weights=none"]).config
    spent = 0.0
    plain = EagerRunner.detect

    def timed(*given: Any) -> Any:
        nonlocal spent
        begun = time.perf_counter()
        found = plain(*given)
        spent += time.perf_counter() - begun
        return found

    EagerRunner.detect = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "images", images, side)
        classes = tuple(str(k) for k in range(20))
        state = build_detector(config, len(classes)).state_dict()
        model = ModelFile(config, classes, tuple(range(20)), state)
        save_model(folder / "model.safetensors", model)
        request = Request([str(folder / "images")], folder / "model.safetensors", folder / "out")
        outcome = predict(request, say=lambda _: None)
    seconds = outcome.summary.seconds
    return {
        "preset": preset,
        "images": images,
        "side": side,
        "seconds": round(seconds, 2),
        "images_a_second": round(images / seconds, 2),
        "share_of_detector": round(spent / seconds, 4),
        "peak_mb": round(peak_mb()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="coco-r50")
    parser.add_argument("--images", type=int, nargs="+", default=[1000])
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--out", type=Path, default=RESULTS / "folder.csv")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(do_job(options.preset, options.images[0], options.side)))
        return
    where = about("torch", "torchvision")
    for images in options.images:
        command = [sys.executable, __file__, "--job", "--preset", options.preset]
        command += ["--images", str(images), "--side", str(options.side)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        add_row(options.out, json.loads(done.stdout.splitlines()[-1]) | where)


if __name__ == "__main__":
    main()
