"""The tutorial's ten detectors: parameters, arithmetic, and the time of one image.

    .venv/bin/python benchmarks/ten.py
    .venv/bin/python benchmarks/ten.py --only yolof detr --repeats 3

Random weights, one image, fp32. Each runs by `dh bench` in a process of its own, right after its
peer: torchvision's detector of the same kind, by `dh bench` too, or transformers' own model with
its own post-processing. Random weights give scores below every threshold; so that there is
something to select, detectors of one stage take any score, ours and theirs. Double-Head and SABL
look at 1000 proposals, of which none falls to NMS, Sparse R-CNN at its 100, their peer at as many
of 1000 as NMS leaves; of these nothing is selected on either side. Double-Head with detections, and
the same RoIs on both sides, is in predict.py. MMDetection does not install beside a current torch,
so it is not here.
Rows are added to `benchmarks/results/ten.csv`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from record import RESULTS, about, add_row
from tenants import bench

ALL_PROPOSALS = ("model.rpn.nms_threshold=1",)
ANY_SCORE = ("model.detect.score_threshold=0",)
FASTER, RETINANET, FCOS = (
    "fasterrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
)
CLASSES = 80


@dataclass(frozen=True)
class Row:
    """A preset, what it is compared with, its settings, and the size it is shown."""

    preset: str
    peer: str
    sets: tuple[str, ...] = ()
    size: str = "800x1216"


ROWS = {
    "double-head": Row("coco-r50", FASTER, ALL_PROPOSALS),
    "sparse": Row("coco-r50-sparse", FASTER),
    "yolof": Row("coco-r50-yolof", RETINANET, ANY_SCORE),
    "atss": Row("coco-r50-atss", RETINANET, ANY_SCORE),
    "paa": Row("coco-r50-paa", RETINANET, ANY_SCORE),
    "vfnet": Row("coco-r50-vfnet", RETINANET, ANY_SCORE),
    "sabl": Row("coco-r50-sabl", FASTER, ALL_PROPOSALS),
    "yolox-s": Row("coco-yolox-s", RETINANET, ANY_SCORE, size="640x640"),
    "detr": Row("coco-r50-detr", "transformers"),
    "deformable-detr": Row("coco-r50-deformable-detr", "transformers"),
    "retinanet": Row("coco-r50-retinanet", RETINANET, ANY_SCORE),
    "fcos": Row("coco-r50-fcos", FCOS, ANY_SCORE),
}
"""The ten, and two whose peers are the same detectors."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=ROWS, help="default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", help="HxW, default: as the detector has it")
    options = parser.parse_args()
    for name in options.only or ROWS:
        row = ROWS[name]
        size = options.size or row.size
        theirs = seconds_of_peer(name, row, size, options.repeats)
        told = bench(row.preset, *row.sets, size=size, repeats=options.repeats)
        ours = told["latency"]["p50"]
        line = {
            "detector": name,
            "preset": row.preset,
            "size": size,
            "parameters": parameters(row.preset),
            "gflop": f"{told['gflop']:.0f}",
            "seconds": f"{ours:.3f}",
            "peer": row.peer,
            "peer_seconds": f"{theirs:.3f}",
            "ratio": f"{ours / theirs:.2f}",
        }
        add_row(RESULTS / "ten.csv", line | about("torch", "torchvision", "transformers"))


def seconds_of_peer(name: str, row: Row, size: str, repeats: int) -> float:
    """The median time of the peer for one image."""
    if row.peer != "transformers":
        sets = ("model.kind=torchvision", f"model.name={row.peer}")
        sets += ANY_SCORE if row.sets == ANY_SCORE else ()
        return float(bench("coco-r50", *sets, size=size, repeats=repeats)["latency"]["p50"])
    code = f"import ten; print(ten.time_transformers({name!r}, {size!r}, {repeats}))"
    path = str(RESULTS.parent)
    told = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=path)
    return float(told.split()[-1])


def parameters(preset: str) -> int:
    """How many numbers are trained or kept, buffers left out, for 80 classes."""
    import torch

    from dhcli.config.load import load_config
    from dhcli.models.build import build_detector

    with torch.device("meta"):
        detector = build_detector(load_config(preset).config, CLASSES)
    return sum(weight.numel() for weight in detector.parameters())


def time_transformers(name: str, size: str, repeats: int) -> float:
    """The median time of transformers' own detector for one image, post-processing included."""
    import torch
    from transformers import (
        DeformableDetrConfig,
        DeformableDetrForObjectDetection,
        DeformableDetrImageProcessor,
        DetrConfig,
        DetrForObjectDetection,
        DetrImageProcessor,
        ResNetConfig,
    )

    stages = ["stage4"] if name == "detr" else ["stage2", "stage3", "stage4"]
    own = {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": ResNetConfig(out_features=stages),
        "num_labels": CLASSES,
    }
    torch.manual_seed(0)
    if name == "detr":
        model, after = DetrForObjectDetection(DetrConfig(**own)), DetrImageProcessor()
    else:
        model = DeformableDetrForObjectDetection(DeformableDetrConfig(**own))
        after = DeformableDetrImageProcessor()
    height, width = map(int, size.split("x"))
    pixels = torch.rand(1, 3, height, width)
    mask = torch.ones(1, height, width, dtype=torch.int64)
    model.eval()
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            said = model(pixel_values=pixels, pixel_mask=mask)
            after.post_process_object_detection(said, 0.0, torch.tensor([[height, width]]))
            times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
