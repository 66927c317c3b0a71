"""Detect with a file that `dh export` wrote, by NumPy, Pillow and ONNX Runtime alone.

    python onnx_predict.py model.onnx photo.jpg [photo.jpg …]

Prints a line per detection: image, class, score, x1, y1, x2, y2 in pixels of the upright image.
docs/onnx.md explains the steps. Copy what you need.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def resized_size(width: int, height: int, rule: dict[str, Any]) -> tuple[int, int]:
    """Width and height for the network: shortest side min_size, longest at most max_size."""
    if rule["rounding"] == "square":
        return rule["min_size"], rule["min_size"]
    longest, shortest = max(width, height), min(width, height)
    if rule["rounding"] == "maskrcnn_benchmark":
        least = rule["min_size"]
        if longest / shortest * least > rule["max_size"]:
            least = round(rule["max_size"] * shortest / longest)
        if width < height:
            return least, int(least * height / width)
        return int(least * width / height), least
    scale = min(rule["max_size"] / longest, rule["min_size"] / shortest)
    half = 0.5 if rule["rounding"] in ("plain", "mmdet1") else 0.0
    return max(1, int(width * scale + half)), max(1, int(height * scale + half))


def read_picture(path: str, rule: dict[str, Any]) -> Image.Image:
    """The image as RGB, upright if the model was trained so."""
    picture = Image.open(path)
    tile = str(picture.tile[0][3]) if picture.tile else ""
    if picture.mode in ("I", "F", "I;16", "I;16B") or ";16" in tile:
        sys.exit(f"{path}: has more than 8 bits per channel; docs/onnx.md says how they become 8")
    if rule["exif"]:
        picture = ImageOps.exif_transpose(picture)
    return picture.convert("RGB")


def prepare(picture: Image.Image, rule: dict[str, Any]) -> dict[str, np.ndarray]:
    """The three inputs of the network for one picture."""
    if rule["interpolation"] != "pil":
        sys.exit(f"resize by {rule['interpolation']!r}, as docs/onnx.md says: Pillow does not")
    size = resized_size(*picture.size, rule)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))  # (h, w, 3) uint8
    height, width = pixels.shape[:2]
    multiple = rule["pad_to_multiple_of"]
    padded = np.zeros((height + -height % multiple, width + -width % multiple, 3), np.uint8)
    padded[:height, :width] = pixels
    return {
        "pixels": padded.transpose(2, 0, 1)[None],
        "size": np.array([height, width], np.int64),
        "original": np.array([picture.height, picture.width], np.int64),
    }


def main(model: str, *paths: str) -> None:
    session = onnxruntime.InferenceSession(model)
    about = session.get_modelmeta().custom_metadata_map
    classes, rule = json.loads(about["classes"]), json.loads(about["preprocessing"])
    for path in paths:
        found = session.run(["boxes", "scores", "labels"], prepare(read_picture(path, rule), rule))
        for box, score, label in zip(*found, strict=True):
            sides = " ".join(f"{side:.3f}" for side in box)
            print(f"{path} {classes[label]} {score:.4f} {sides}")


if __name__ == "__main__":
    main(*sys.argv[1:])
