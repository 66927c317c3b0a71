"""What timm's backbones and torchvision's detectors cost beside ResNet-50, by `dh bench`.

    .venv/bin/python benchmarks/tenants.py --image-size 480x640 --repeats 5
    .venv/bin/python benchmarks/tenants.py --only convnext_tiny

Random weights, one image at a time, fp32. Each is measured in a process of its own, right after
the row that it is compared with: Double-Head on torchvision's ResNet-50 (`coco-r50`). How many
proposals random weights leave is chance, so NMS leaves 300 for every backbone, and both branches
look at all of them. torchvision's detectors have their own numbers. Rows are added to
`benchmarks/results/tenants.csv`.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from record import RESULTS, about, add_row, dh

PRESET = "coco-r50"
PROPOSALS = (
    "model.rpn.nms_threshold=1",
    "model.rpn.proposals_test=300",
    "model.detect.score_threshold=0",
)
BACKBONES = (
    "resnet50d",
    "resnext50_32x4d",
    "regnety_016",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b1",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_medium",
)
DETECTORS = (
    "fasterrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
)


def settings(name: str) -> list[str]:
    """What makes `coco-r50` the detector `name`."""
    if name in DETECTORS:
        return ["model.kind=torchvision", f"model.name={name}"]
    return ["model.backbone.kind=timm", f"model.backbone.name={name}", *PROPOSALS]


def bench(
    preset: str, *overrides: str, size: str | None, repeats: int, device: str = "cpu"
) -> dict[str, Any]:
    """What `dh bench --json` says; of images of the preset's own size where `size` is None."""
    sets = [word for one in overrides for word in ("--set", one)]
    words = ["bench", "--preset", preset, *sets, "--json", "--repeats", str(repeats)]
    words += ["--device", device, *(("--image-size", size) if size else ())]
    told: dict[str, Any] = json.loads(dh(*words))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", default="480x640", help="HxW")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="names, default: all")
    options = parser.parse_args()
    for name in options.only or (*BACKBONES, *DETECTORS):
        own = None if "ssdlite" in name else options.image_size  # a square network stays one
        how = {"repeats": options.repeats, "device": options.device}
        base = bench(PRESET, *PROPOSALS, size=options.image_size, **how)
        one = bench(PRESET, *settings(name), size=own, **how)
        seconds, before = (told["latency"]["p50"] for told in (one, base))
        row = {
            "name": name,
            "image": one["image"],
            "seconds": f"{seconds:.3f}",
            "resnet50": f"{before:.3f}",
            "ratio": f"{seconds / before:.2f}",
            "backbone": f"{one['parts']['backbone']:.3f}",
            "resnet50_backbone": f"{base['parts']['backbone']:.3f}",
            "gflop": f"{one['gflop']:.0f}",
            "resnet50_gflop": f"{base['gflop']:.0f}",
            "device": one["device"],
        }
        add_row(RESULTS / "tenants.csv", row | about("torch", "torchvision", "timm"))


if __name__ == "__main__":
    main()
