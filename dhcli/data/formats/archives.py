"""Archives and compressed files, which are not read: what to type instead. None is unpacked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from dhcli.data.io.files import list_files, read_ends
from dhcli.errors import DataError

_UNPACK = {
    ".zip": "unzip {file} -d {folder}",
    **dict.fromkeys(
        (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"),
        "mkdir {folder} && tar -xf {file} -C {folder}",
    ),
    ".7z": "7z x {file} -o{folder}",
    ".rar": "unrar x {file} {folder}/",
    ".gz": "gunzip -k {file}",
    ".bz2": "bunzip2 -k {file}",
    ".xz": "unxz -k {file}",
}
"""How files are unpacked, by how they end; the first counts."""
_SIGNS = {
    "COCO": rb"instances_\w+\.json|_annotations\.coco\.json",
    "YOLO": rb"data\.ya?ml|/labels/[^/\0]+\.txt|obj\.names",
    "CVAT": rb"(?<![\w/])annotations\.xml",
    "Pascal VOC": rb"Annotations/[^/\0]+\.xml",
    "KITTI": rb"label_2/\d+\.txt",
}
"""What the names of files speak of."""
_LOOK_AT = 1 << 16


def refuse_archive(path: Path) -> None:
    """Raise DataError that says how to unpack the file `path`, if it is an archive."""
    if path.is_file() and (command := _command(path)):
        guess = _guess(path)
        what = f" (it looks like {guess} inside)" if guess else ""
        raise DataError(
            f"is packed, and must be unpacked first{what}",
            where=path,
            hint=f"type {command}",
        )


def archives_in(folder: Path) -> str | None:
    """A hint on the archives that lie in `folder`, None where there are none."""
    commands = [_command(folder / name) for name in list_files(folder, *_UNPACK)]
    return f"unpack it first: {commands[0]}" if commands else None


def _command(path: Path) -> str | None:
    name = path.name.lower()
    suffix = next((suffix for suffix in _UNPACK if name.endswith(suffix)), None)
    if suffix is None:
        return None
    file, folder = (shlex.quote(str(each)) for each in (path, str(path)[: -len(suffix)]))
    return _UNPACK[suffix].format(file=file, folder=folder)


def _guess(path: Path) -> str | None:
    """The format that names in the ends of an archive speak of: a zip lists them unpacked."""
    head, tail, _ = read_ends(path, _LOOK_AT)
    found = (name for name, sign in _SIGNS.items() if re.search(sign, tail + head))
    return next(found, None) if path.suffix.lower() in (".zip", ".tar") else None
