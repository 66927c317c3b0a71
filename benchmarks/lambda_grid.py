"""Fig. 6 of the paper in miniature: a grid of λ_fc and λ_conv, drawn shapes, from nothing.

    .venv/bin/python benchmarks/lambda_grid.py --out /tmp/lambda [--fc 0.6 0.8 1] [--conv 0.6 0.8 1]

Each pair of λ is one training of a Double-Head-Ext, `dh train --set …`, with the settings of
`benchmarks/table1.yaml`; then `dh study lambda` reads all of them in the paper's four ways and
draws the heat maps to `OUT/study`. A pair that is trained is not trained again: started with the
same `--out`, it goes on where it stopped. Nine pairs of 8 epochs take a few minutes of two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import product
from pathlib import Path

from dhcli.data.shapes import draw_shapes
from dhcli.weights.locate_model import BEST

DH = (sys.executable, "-m", "dhcli")
IMAGE_SIZE = (160, 120)
FC = '{"kind": "fc", "width": 256, "focus": "cls", "omega": 2.0, "lambda": %g}'
CONV = (
    '{"kind": "conv", "width": 128, "residual": 3, "norm": "bn", "focus": "reg", "omega": 2.5, '
    '"lambda": %g}'
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fc", type=float, nargs="+", default=[0.6, 0.8, 1.0])
    parser.add_argument("--conv", type=float, nargs="+", default=[0.6, 0.8, 1.0])
    parser.add_argument("--images", type=int, default=250, help="drawn; a fifth is measured on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    data = (options.out / f"shapes-{options.images}").absolute()
    if not data.exists():
        draw_shapes(data, images=options.images, seed=0, size=IMAGE_SIZE)
    runs = options.out / "runs"
    for fc, conv in product(options.fc, options.conv):
        run = runs / f"{fc:g}-{conv:g}"
        if not (run / BEST).is_file():
            dh(*training(run, data, fc, conv, options))
    where = ("--data", str(data), "--device", options.device)
    dh("study", "lambda", "--runs", str(runs), *where, "--out", str(options.out / "study"),
       "--overwrite")  # fmt: skip


def training(
    run: Path, data: Path, fc: float, conv: float, options: argparse.Namespace
) -> list[str]:
    """The words of `dh train` for a pair of λ; a run that was cut off is begun anew."""
    branches = f"model.head.branches=[{FC % fc}, {CONV % conv}]"
    settings = [branches, f"train.epochs={options.epochs}", *options.set]
    preset = str(Path(__file__).with_name("table1.yaml"))
    words = ["train", "--preset", preset, "--data", str(data), "--out", str(run), "--overwrite"]
    words += ["--device", options.device]
    return [*words, *(word for setting in settings for word in ("--set", setting))]


def dh(*words: str) -> None:
    """Run a command of dh, and stop where it fails."""
    print("dh", *words, flush=True)
    done = subprocess.run([*DH, *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
