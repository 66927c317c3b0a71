"""Images named by addresses: of an upload, a bucket, a server's folder. Their ends count."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from dhcli.data.formats.locate import as_told
from dhcli.data.io.files import list_images

_NOT_IN_UPLOADS = re.compile(r"[^\w.-]")


def locate_addresses(
    root: Path, path: Path, names: Sequence[str], other: Callable[[str], str] = str
) -> tuple[list[str], list[str]]:
    """Where the images `names`, paths in the annotation file `path`, lie: as `as_told` has it.

    Of those that are not there as told, the longest end counts that is, in any folder below `root`,
    where one image alone has it; or else the same of what `other` makes of the name.
    """
    told = as_told(root, path, names)
    files = told.files
    if told.missing:
        ends = _Ends(root)
        for number in told.missing:
            name = names[number]
            files[number] = ends.find(name) or ends.find(other(name)) or files[number]
    return files, told.notes


class _Ends:
    """The images below a folder, by the ends of their paths."""

    def __init__(self, root: Path) -> None:
        self._alike: dict[str, list[str]] = {}
        for file in list_images(root, deep=True):
            self._alike.setdefault(_as_uploaded(file), []).append(file)

    def find(self, name: str) -> str | None:
        """The image with the longest end of `name`; None where none or several have it."""
        alike = self._alike.get(_as_uploaded(name), [])
        lengths = [_common_end(name, file) for file in alike]
        longest = max(lengths, default=0)
        return alike[lengths.index(longest)] if lengths.count(longest) == 1 else None


def _as_uploaded(path: str) -> str:
    """The last part of a path as servers call uploads: `my_photo_1.jpg` for `my photo (1).jpg`."""
    return _NOT_IN_UPLOADS.sub("", path.rpartition("/")[2].strip().replace(" ", "_"))


def _common_end(name: str, file: str) -> int:
    """How many parts at the end of two paths are the same."""
    pairs = zip(reversed(name.split("/")), reversed(file.split("/")), strict=False)
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count
