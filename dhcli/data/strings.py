"""Columns of text: one buffer of bytes, and where in it each row lies. No Python object per row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dhcli.data.io.file_bytes import FileBytes

Spans = NDArray[np.int64]


class Strings(Sequence[str]):
    """An immutable column of strings: row i is bytes starts[i] to stops[i] of a buffer, UTF-8.

    Rows that are taken share the buffer. `PackedStrings` have it in memory; that of `FileStrings`
    stays in its files, and rows are read when they are asked for.
    """

    def __init__(self, starts: Spans, stops: Spans) -> None:
        self.starts = starts
        self.stops = stops

    @staticmethod
    def pack(values: Iterable[str]) -> PackedStrings:
        """The column that says `values`."""
        return _packed([value.encode("utf-8", "surrogateescape") for value in values])

    @staticmethod
    def repeat(value: str, count: int) -> PackedStrings:
        """`count` rows that all say `value`; it is stored once."""
        return Strings.pack([value]).take(np.zeros(count, np.int64))

    @staticmethod
    def join(columns: Sequence[Strings]) -> Strings:
        """The rows of all `columns`, one column after another.

        They stay in files where every column that says anything is one of files.
        """
        said = [column for column in columns if len(column.starts) and column.stops.any()]
        if said and all(isinstance(column, FileStrings) for column in said):
            return _join_in_files(columns)
        packed = [column.in_memory() for column in columns]
        buffers = [column.buffer for column in packed]
        starts, stops = _shift(packed, [len(buffer) for buffer in buffers])
        return PackedStrings(np.concatenate([np.zeros(0, np.uint8), *buffers]), starts, stops)

    @abstractmethod
    def in_memory(self) -> PackedStrings:
        """The same rows, read where they lie in files."""

    @abstractmethod
    def _rows(self) -> Iterator[memoryview | bytes]:
        """The bytes of each row."""

    @abstractmethod
    def _at(self, starts: Spans, stops: Spans) -> Self:
        """The column of other rows of the same buffer."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice | np.ndarray | list):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._row(index)

    def _row(self, index: int) -> str:
        return next(iter(self.take(np.array([index]))))

    def __iter__(self) -> Iterator[str]:
        for row in self._rows():
            yield str(row, "utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strings) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: NDArray[np.int64]) -> Self:
        """The rows at `indices` (n,) int64, in that order."""
        return self._at(self.starts[indices], self.stops[indices])

    def blank(self, rows: NDArray[np.bool_]) -> Self:
        """The column with empty text where `rows` (n,) bool is true."""
        return self._at(self.starts, np.where(rows, self.starts, self.stops))

    def says(self) -> NDArray[np.bool_]:
        """(n,) bool: rows that are not empty."""
        said: NDArray[np.bool_] = self.stops > self.starts
        return said


class PackedStrings(Strings):
    """A column in memory. Only the rows that are used are pickled."""

    def __init__(self, buffer: NDArray[np.uint8], starts: Spans, stops: Spans) -> None:
        super().__init__(starts, stops)
        self.buffer = buffer

    def in_memory(self) -> PackedStrings:
        return self

    def _row(self, index: int) -> str:
        raw = self.buffer[self.starts[index] : self.stops[index]]
        return raw.tobytes().decode("utf-8", "surrogateescape")

    def _rows(self) -> Iterator[memoryview]:
        raw = self.buffer.data
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield raw[start:stop]

    def _at(self, starts: Spans, stops: Spans) -> Self:
        return type(self)(self.buffer, starts, stops)

    def __reduce__(self) -> tuple[Any, ...]:
        is_used = int((self.stops - self.starts).sum()) >= len(self.buffer)
        used = self if is_used else _packed(list(self._rows()))
        return PackedStrings, (used.buffer, used.starts, used.stops)


class FileStrings(Strings):
    """A column whose text stays in `files`. Raises DataError where one of them has changed."""

    def __init__(self, files: FileBytes, starts: Spans, stops: Spans) -> None:
        super().__init__(starts, stops)
        self.files = files

    def in_memory(self) -> PackedStrings:
        return _packed(list(self._rows()))

    def _rows(self) -> Iterator[bytes]:
        spans = zip(self.starts.tolist(), self.stops.tolist(), strict=True)
        with self.files.reading() as read:
            for start, stop in spans:
                yield read(start, stop) if stop > start else b""

    def _at(self, starts: Spans, stops: Spans) -> Self:
        return type(self)(self.files, starts, stops)


def _packed(values: Sequence[bytes | memoryview]) -> PackedStrings:
    stops = np.cumsum([len(value) for value in values], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), stops])[: len(values)]
    return PackedStrings(np.frombuffer(b"".join(values), np.uint8), starts, stops)


def _join_in_files(columns: Sequence[Strings]) -> FileStrings:
    """The rows of columns that are in files, or say nothing."""
    files = [
        column.files if isinstance(column, FileStrings) else FileBytes(()) for column in columns
    ]
    return FileStrings(FileBytes.join(files), *_shift(columns, [len(each) for each in files]))


def _shift(columns: Sequence[Strings], sizes: Sequence[int]) -> tuple[Spans, Spans]:
    """Where the rows of `columns` lie when their buffers, of `sizes`, follow each other."""
    shifts = np.cumsum([0, *sizes], dtype=np.int64).tolist()
    none = np.zeros(0, np.int64)
    starts = [column.starts + shift for column, shift in zip(columns, shifts, strict=False)]
    stops = [column.stops + shift for column, shift in zip(columns, shifts, strict=False)]
    return np.concatenate([none, *starts]), np.concatenate([none, *stops])
