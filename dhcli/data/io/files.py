"""Finding and reading a dataset's files: bounded to its folder, whatever its annotations say."""

from __future__ import annotations

import os
import posixpath
import re
import stat
import time
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dhcli.data.io.progress import Progress
from dhcli.errors import DataError

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff"),
        *(".webp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2", ".avif", ".mpo"),
        *(".heic", ".heif", ".hif"),
    )
)

IMAGE_FOLDERS = (
    *("JPEGImages", "images", "image", "img", "imgs", "data", "frames", "img1"),
    *("obj_train_data", "."),
)
"""What folders of images are called, in any case; the first that is there counts."""

_JUNK = ("__MACOSX",)
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
    "minival": "minival",
    "unlabeled": "unlabeled",
}
_SPLIT_FOLDER = re.compile(rf"({'|'.join(_SPLITS)})(20\d\d)?")
_SPLIT_WORD = re.compile(rf"(?:^|[^a-z])({'|'.join(_SPLITS)})-?(?:dev)?(?:20\d\d)?(?![a-z0-9])")
_LONGEST_NAME, _LONGEST_PATH = 200, 2000
_THREADS = 8
_CHUNK = 64
_LOOKS = 1000
_WAITING = 4
"""Time over work from which on the disk is waited for, and not other programs."""

_listed: ContextVar[dict[Path, _Listing] | None]
_listed = ContextVar("listed", default=None)

T = TypeVar("T")
R = TypeVar("R")


def open_file(path: Path) -> FileIO:
    """The file `path`, open for reading. Raises DataError unless it is a regular, readable one."""
    descriptor, _ = _open(path)
    return FileIO(descriptor)


def _open(path: str | Path) -> tuple[int, int]:
    """A descriptor of a regular file, and its length.

    Datasets have hundreds of thousands of small files: with this and os.read, a file costs four
    system calls and no objects, half the time of a FileIO.
    """
    try:
        # A pipe would otherwise wait for a writer that never comes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror}", where=Path(path)) from error
    except ValueError as error:
        raise DataError("is not a possible file name", where=repr(str(path))) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise DataError("is not a file", where=Path(path))
    return descriptor, found.st_size


def read_bytes(path: str | Path, limit: int | None = None) -> bytes:
    """The content of the file `path`, or its first `limit` bytes.

    Raises DataError unless it is a regular, readable file.
    """
    descriptor, length = _open(path)
    try:
        wanted = length if limit is None else min(length, limit)
        data = os.read(descriptor, wanted)
        while len(data) < wanted and (more := os.read(descriptor, wanted - len(data))):
            data += more  # Linux reads 2 GB at a time
        return data
    finally:
        os.close(descriptor)


def read_ends(path: str | Path, size: int) -> tuple[bytes, bytes, int]:
    """The first and the last `size` bytes of the file `path`, and its length.

    Raises DataError unless it is a regular, readable file.
    """
    descriptor, length = _open(path)
    try:
        head = os.read(descriptor, size)
        tail = os.pread(descriptor, size, length - size) if length > size else head
        return head, tail, length
    finally:
        os.close(descriptor)


_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""What text in UTF-16 begins with."""


def read_text(path: Path) -> str:
    """The text of `path`, decoded as `decode` does."""
    return decode(read_bytes(path))


def read_head(path: Path, limit: int = 1 << 16) -> str:
    """The beginning of a text file, to see what it is; "" if it is not a file."""
    try:
        return decode(read_bytes(path, limit))
    except DataError:
        return ""


def decode(data: bytes) -> str:
    """The text of a file's bytes: UTF-8 or UTF-16 by its mark, UTF-8 without one, else Latin-1."""
    if data.startswith(_WIDE_MARKS):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_names(path: Path) -> list[str]:
    """The lines of a list of files, empty ones too; bytes that are no UTF-8 stay as they are."""
    data = read_bytes(path)
    wide = data.startswith(_WIDE_MARKS)
    text = decode(data) if wide else data.decode("utf-8-sig", "surrogateescape")
    return [line.strip() for line in text.splitlines()]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without the spaces around them and without empty ones."""
    return [line for line in (raw.strip() for raw in read_text(path).splitlines()) if line]


@contextmanager
def listing_once() -> Iterator[None]:
    """Within the block a folder is listed once, however many formats ask what is in it."""
    known = _listed.get()
    token = _listed.set({} if known is None else known)
    try:
        yield
    finally:
        _listed.reset(token)


class _Listing:
    """Names of the `files` and of the `folders` in a folder, sorted, hidden ones left out."""

    def __init__(self, files: list[str], folders: list[str]) -> None:
        self.files, self.folders = sorted(files), sorted(folders)
        self._ending: dict[tuple[str, ...], list[str]] = {}

    def ending(self, suffixes: tuple[str, ...]) -> list[str]:
        """The files that end in one of `suffixes`: formats ask for the same ones in turn."""
        if suffixes not in self._ending:
            self._ending[suffixes] = [n for n in self.files if n.lower().endswith(suffixes)]
        return self._ending[suffixes]


def _list(folder: Path) -> _Listing:
    known = _listed.get()
    if known is not None and folder in known:
        return known[folder]
    found: tuple[list[str], list[str]] = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name[0] != ".":
                    found[_is_folder(entry)].append(entry.name)
    except OSError:
        pass
    listing = _Listing(*found)
    if known is not None:
        known[folder] = listing
    return listing


def has_file(folder: Path, *suffixes: str) -> bool:
    """Whether `folder` holds a file whose name ends in one of `suffixes` (lower case)."""
    return bool(_list(folder).ending(suffixes))


def list_files(folder: Path, *suffixes: str) -> list[str]:
    """Names of the files in `folder` that end in one of `suffixes` (lower case), sorted."""
    return [*_list(folder).ending(suffixes)]


def filled_files(folder: Path, names: Iterable[str], most: int = 20) -> Iterator[str]:
    """Those of the files `names` in `folder` that hold anything, `most` at most."""
    return islice((name for name in names if _length(folder / name)), most)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, hidden ones and those of an archiver left out."""
    return [name for name in _list(folder).folders if name not in _JUNK]


def list_images(folder: Path, *, deep: bool = False) -> list[str]:
    """POSIX paths, relative to `folder`, of the images in it (and below, if `deep`), sorted."""
    if not deep:
        return list_files(folder, *IMAGE_SUFFIXES)
    found: list[str] = []
    for parent, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder).as_posix()
        found += [join_path(below, name) for name in list_images(Path(parent))]
    return sorted(found)


def is_listed(name: str) -> bool:
    """Whether a folder of this name is ever looked into: not a hidden one, or an archiver's."""
    return bool(name) and name[0] != "." and name not in _JUNK


def find_folders(root: Path, names: Iterable[str]) -> Iterator[str]:
    """Those of the folders `names` below `root` that are there, in any case; as spelled."""
    listed: dict[str, list[str]] = {}
    for name in names:
        path = ""
        for part in (part for part in name.split("/") if part not in ("", ".")):
            if path not in listed:
                listed[path] = list_folders(root / path)
            alike = [each for each in listed[path] if each.lower() == part.lower()]
            if not alike:
                break
            path = join_path(path, part if part in alike else alike[0])
        else:
            yield path or "."


def first_folder(root: Path, names: Iterable[str], *suffixes: str) -> str | None:
    """The first of the folders `names` below `root` that holds a file ending in `suffixes`."""
    found = find_folders(root, names)
    return next((folder for folder in found if has_file(root / folder, *suffixes)), None)


class FilesByStem(dict[str, str]):
    """The files of a folder that end in one of `suffixes`, by their stems; `names` has them all.

    With `deep` the images in it and below, as paths.
    """

    def __init__(self, folder: Path, *suffixes: str, deep: bool = False) -> None:
        self.names = list_images(folder, deep=True) if deep else list_files(folder, *suffixes)
        super().__init__((stem_of(name), name) for name in reversed(self.names))
        self._folded: dict[str, str] = {}

    def find(self, stem: str) -> str | None:
        """The file of that stem, else one whose stem has other case or another form of accents."""
        if stem in self or not self:
            return self.get(stem)
        self._folded = self._folded or {fold(key): name for key, name in self.items()}
        return self._folded.get(fold(stem))


def fold(text: str) -> str:
    """`text` as file systems that do not tell case, or forms of accents, take it for a name."""
    return unicodedata.normalize("NFC", text).casefold()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def confine(name: str, folder: str = "") -> str | None:
    """The POSIX path of `name`, told relative to `folder`, from the root; None if it leaves it.

    Backslashes count as separators. Only the text is looked at, not the disk.
    """
    if "\\" in name:
        name = name.replace("\\", "/")
    if not name or "\0" in name or name[0] == "/" or name[1:2] == ":" or "://" in name:
        return None
    path = f"{folder}/{name}" if folder else name
    if not _is_possible(path):
        return None
    if "./" in path or "//" in path or path.endswith((".", "/")):
        path = posixpath.normpath(path)
    return None if path.startswith("..") and path[2:3] in ("", "/") else path


def join_path(folder: str, name: str) -> str:
    """The POSIX path of `name` in `folder`, where "." stands for nothing on either side."""
    if folder in ("", "."):
        return name
    return folder if name == "." else f"{folder}/{name}"


def last_part(name: str) -> str:
    """What follows the last slash or backslash of `name`; "unnamed" where nothing sound does."""
    last = sound_text(name).replace("\\", "/").rsplit("/", 1)[-1].replace("\0", "")
    return last if last not in ("", ".", "..") and _is_possible(last) else "unnamed"


def sound_text(text: str) -> str:
    """`text`, what cannot be encoded replaced by "?"; JSON can spell halves of characters."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _is_possible(path: str) -> bool:
    """Whether a system would take the path: its characters, and its length."""
    if len(path) <= _LONGEST_NAME and path.isascii():
        return True
    parts = [part.encode("utf-8", "replace") for part in path.split("/")]
    sizes = [len(part) for part in parts]
    return sound_text(path) == path and max(sizes) <= _LONGEST_NAME and sum(sizes) <= _LONGEST_PATH


def split_name(text: str) -> str | None:
    """The split that a file's or folder's name speaks of: val for `instances_val2017`, `valid`."""
    found = _SPLIT_WORD.search(text.lower())
    return _SPLITS[found[1]] if found else None


def usual_split(name: str) -> str:
    """What the split `name` is usually called: val for `Validation`; itself for `night`."""
    return _SPLITS.get(name.lower(), name)


def is_split_name(name: str) -> bool:
    """Whether a folder of this name is taken for one of a split."""
    return _SPLIT_FOLDER.fullmatch(name.lower()) is not None


def split_folders(root: Path) -> list[tuple[str, str]]:
    """(split, folder name) of the folders in `root` that are called as splits are."""
    named = ((_SPLIT_FOLDER.fullmatch(name.lower()), name) for name in list_folders(root))
    return [(_SPLITS[match[1]], name) for match, name in named if match]


def read_sizes(root: Path, files: Sequence[str]) -> NDArray[np.int32]:
    """(n, 2) width and height from the headers of `files` below `root`; 0 where unreadable."""
    from dhcli.data.io.image import HEAD, jpeg_size, read_size

    def size(file: str) -> tuple[int, int]:
        try:
            return jpeg_size(read_bytes(f"{root}/{file}", HEAD)) or read_size(root / file)
        except DataError:
            return (0, 0)

    return np.array(map_looks(size, files), np.int32).reshape(-1, 2)


def map_looks(
    function: Callable[[T], R], items: Sequence[T], what: str = "looking at files"
) -> list[R]:
    """`function` of every item, in order: for looks at files that take microseconds each.

    Threads help where the disk is waited for. Where it is not, they fight over Python's lock, and
    take three times as long: so they are begun when a thousand looks were mostly waiting.
    """
    progress = Progress(what, len(items))
    done: list[R] = []
    for start in range(0, len(items), _LOOKS):
        began, worked = time.perf_counter(), time.thread_time()
        done += map(function, items[start : start + _LOOKS])
        progress.reached(len(done))
        if time.perf_counter() - began > _WAITING * (time.thread_time() - worked):
            return done + map_threads(function, items[len(done) :], what)
    return done


def map_threads(
    function: Callable[[T], R], items: Sequence[T], what: str = "looking at files"
) -> list[R]:
    """`function` of every item, in order, in threads: for what waits, or decodes images."""
    progress = Progress(what, len(items))
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    done: list[R] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for results in pool.map(lambda chunk: [function(item) for item in chunk], chunks):
            done += results
            progress.reached(len(done))
    return done


def fill_sizes(root: Path, files: Sequence[str], sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """`sizes` (I, 2) with what is not known, 0, read from the headers of the images."""
    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    if not len(unknown):
        return sizes
    filled = sizes.copy()
    filled[unknown] = read_sizes(root, [files[index] for index in unknown.tolist()])
    return filled


def read_splits(
    lists: Iterable[Path], number_of: dict[str, int]
) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """The splits that files of names are called as, and the names, by list, that are unknown.

    Those that are called as one split (`Val.txt` and `validation.txt`) are one.
    """
    splits: dict[str, NDArray[np.int64]] = {}
    unknown: list[str] = []
    for path in lists:
        images, missing = read_split(path, number_of)
        name = usual_split(stem_of(path.name))
        before = splits.get(name, images[:0])
        splits[name] = np.append(before, images[~np.isin(images, before)])
        unknown += dict.fromkeys(missing)
    return splits, unknown


def read_split(path: Path, number_of: dict[str, int]) -> tuple[NDArray[np.int64], list[str]]:
    """Image numbers that the list `path` names by stem, a line each, and the unknown stems."""
    stems = [listed_stem(line, number_of) for line in read_lines(path)]
    known = [number_of[stem] for stem in stems if stem in number_of]
    unknown = [stem for stem in stems if stem not in number_of]
    return np.array(list(dict.fromkeys(known)), np.int64), unknown


def listed_stem(line: str, known: Container[str]) -> str:
    """The stem that a line of a list names: all of it if that is `known`, else its first word.

    Names have spaces, and after a name may stand a flag or another file. A stem may end like a
    file: `a.jpg` of `a.jpg.png`.
    """
    options = (stem_of(line), line)
    return next((each for each in options if each in known), stem_of(line.split()[0]))


def stem_of(name: str) -> str:
    """`name` without folders, and without the suffix of an image or annotation."""
    last = last_part(name)
    stem, _, suffix = last.rpartition(".")
    known = f".{suffix.lower()}" in IMAGE_SUFFIXES or suffix.lower() in ("xml", "txt")
    return stem if stem and known else last
