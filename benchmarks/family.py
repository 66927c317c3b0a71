"""The two-stage family side by side: the same images, backbone, recipe and steps; the head changes.

    .venv/bin/python benchmarks/family.py --out /tmp/family [--systems cascade tsd] [--seeds 0 1]
    .venv/bin/python benchmarks/family.py --out /tmp/bccd --data ../shared/data/bccd \
        --split test --seeds 0 --set "train.lr_multipliers={backbone: 0.1}" \
        --set input.min_size=320 --set input.max_size=448 --set train.eval_every=0
    .venv/bin/python benchmarks/family.py --out /tmp/kitti --data ../shared/data/kitti_tiny \
        --table kitti --preset kitti-tiny-light --seeds 0

What makes the preset each system stands in `benchmarks/family.yaml`; in `benchmarks/kitti.yaml`
for the tutorial's detectors of one stage and its transformers. Each is trained by `dh train`
and measured by `dh eval`, seed by seed, in a process of its own; a training that is finished is not
repeated, so what was cut off goes on with the same command. Without `--data`, 120 images of shapes
are drawn: three to four minutes of a core a training. Rows are added to
`benchmarks/results/family.csv`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from record import RESULTS, about, add_row, dh

from dhcli.data.shapes import draw_shapes

TABLES = ("family", "kitti")
MEASURED = "measured.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="default: drawn shapes")
    parser.add_argument("--split", default="val", help="to measure on")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--table", choices=TABLES, default=TABLES[0])
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="default: all of the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    file = Path(__file__).with_name(f"{options.table}.yaml")
    systems = yaml.safe_load(file.read_text())["systems"]
    chosen = options.systems or list(systems)
    if unknown := set(chosen) - set(systems):
        parser.error(f"no {', '.join(sorted(unknown))} in {file.name}, only {', '.join(systems)}")
    data = options.data or options.out / "shapes"
    if options.data is None and not data.exists():
        draw_shapes(data, images=120, seed=0)
    for seed in options.seeds:
        for system in chosen:
            run = options.out / f"{system}-{seed}"
            if (run / MEASURED).exists():
                continue
            words = ["--preset", options.preset, "--data", str(data), "--seed", str(seed)]
            words += settings(systems[system], options.set)
            dh("train", *words, "--out", str(run), "--overwrite")
            words = ["--weights", str(run), "--data", str(data), "--split", options.split, "--json"]
            stats = json.loads(dh("eval", *words))["metrics"]["coco"]["stats"]
            (run / MEASURED).write_text(json.dumps(stats))
            of = {"system": system, "seed": seed, "data": data.name, "split": options.split}
            numbers = {name: f"{stats[name]:.4f}" for name in ("AP", "AP50", "AP75")}
            add_row(RESULTS / "family.csv", of | numbers | about("torch", "torchvision", "timm"))


def settings(own: dict[str, Any], more: list[str]) -> list[str]:
    """The words of `dh train` for the settings of a system, and `more` after them."""
    sets = [f"{key}={json.dumps(value)}" for key, value in own.items()]
    return [word for one in (*sets, *more) for word in ("--set", one)]


if __name__ == "__main__":
    main()
