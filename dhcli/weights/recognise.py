"""Say what a file that should hold weights really is, from its first bytes."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dhcli.errors import ModelError

PUBLISHED = "torchvision:"
"""What the name of a detector that torchvision publishes begins with, in the place of a path."""

SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-zip archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"%PDF", "a PDF document"),
)

ULTRALYTICS = ("ultralytics.", "models.yolo", "models.common")
"""Where YOLO's classes are, in files of version 8 and later, and of version 5."""
NAMES = (
    (r"\.ckpt(-\d+)?(\.(index|meta|data-\d+-of-\d+))?$|^checkpoint$", "a TensorFlow checkpoint"),
    (r"\.(pb|pbtxt)$", "a TensorFlow graph"),
    (r"\.tflite$", "a TensorFlow Lite model"),
    (r"\.keras$", "a Keras model"),
    (r"\.weights$", "a file of Darknet's weights (YOLO)"),
    (r"\.(engine|plan)$", "a TensorRT engine"),
    (r"\.pdparams$", "a PaddlePaddle checkpoint"),
)
"""Names of files whose first bytes do not tell; a torch checkpoint may be called .ckpt, too."""

TRAINED = "`dh train` writes models as best.safetensors and last.safetensors in its run folder"


def look_at(path: Path) -> str:
    """What `path` looks like, in words that follow "it is", such as "a zip archive".

    Reads the first bytes only and unpacks nothing.
    """
    head = read_head(path)
    if not head:
        return "empty"
    for signature, name in SIGNATURES:
        if head.startswith(signature):
            return name
    if b"data.pkl" in head:
        theirs = any(name.encode() in head for name in ULTRALYTICS)
        return "a YOLO model of Ultralytics" if theirs else "a PyTorch checkpoint (.pth)"
    if (named := _look_at_name(path)) is not None:
        return named
    if head.startswith(b"PK"):
        return "a zip archive"
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle (an old .pth or .pkl), which can run code and is not opened"
    return _look_at_text(head) or _look_at_header(path, head) or "not a kind of file that dh knows"


def read_head(path: Path, length: int = 512, *, absent: str | None = TRAINED) -> bytes:
    """The first bytes of a file.

    Raises ModelError where there is no readable file; `absent` is the hint where there is none.
    """
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.safetensors"))
        hint = f"name the file: {path / inside[0]}" if inside else "name a .safetensors file"
        raise ModelError("is a folder, not a model file", where=path, hint=hint)
    try:
        with path.open("rb") as file:
            return file.read(length)
    except FileNotFoundError as error:
        raise ModelError("no such file", where=path, hint=absent) from error
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=path) from error


def is_compressed(path: Path) -> bool:
    """Whether a zip holds more than its own size: torch stores, so this is not a checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, struct.error):
        return False
    return unpacked > path.stat().st_size


def is_foreign(path: Path) -> bool:
    """Whether a file may be another program's weights: a .pth, or safetensors that dh did not make.

    Raises ModelError where there is no readable file.
    """
    head = read_head(path)
    if head[8:9] == b"{":
        return not is_described(path)
    return (head.startswith(b"PK") and b"data.pkl" in head) or head[:1] == b"\x80"


def is_described(path: Path) -> bool:
    """Whether a safetensors file has dh's description; a damaged one counts as having it."""
    try:
        with safe_open(path, framework="numpy") as file:
            return "dh" in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return True


def load_plain(path: Path) -> object:
    """What torch.save wrote to `path`, tensors on the CPU, without running any code in it.

    Raises ValueError where the file is anything else, or unpacks to more than its own size.
    """
    import torch  # late: a model file's header is read without it

    if is_compressed(path):
        raise ValueError("compressed")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler raises almost anything on damaged bytes
        raise ValueError(str(error)) from error


def save_plain(content: object, file: Any) -> None:
    """Write tensors and plain values for `load_plain`; `file` has `write`. Raises OSError."""
    import torch

    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch's writer hides the disk's error behind its own
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _look_at_name(path: Path) -> str | None:
    return next((what for ends, what in NAMES if re.search(ends, path.name, re.IGNORECASE)), None)


def _look_at_text(head: bytes) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, perhaps because a download asked for a login"
    if start.startswith((b"<?xml", b"<")):
        return "XML text"
    if start.startswith((b"{", b"[")):
        return "JSON text"
    printable = all(byte >= 0x20 or byte in b"\t\n\r" for byte in head)
    return "text" if printable and b"\x00" not in head else None


def _look_at_header(path: Path, head: bytes) -> str | None:
    """Formats that begin with numbers: safetensors (length of its header) and ONNX (protobuf)."""
    if len(head) > 8 and head[8:9] == b"{":
        length = int.from_bytes(head[:8], "little")
        if length + 8 > path.stat().st_size:
            return "a truncated safetensors file"
        return "a damaged safetensors file"
    if head.startswith(b"\x08") and (b"pytorch" in head or path.suffix == ".onnx"):
        return "an ONNX model"
    return None
