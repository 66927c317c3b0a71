"""Columns of text: shared when rows are taken, small when sent to another process."""

import pickle

import numpy as np
import pytest

from dhcli.data.io.file_bytes import FileBytes
from dhcli.data.strings import FileStrings, Strings
from dhcli.errors import DataError

WORDS = ["één", "", "two", "\udcff", "three"]


@pytest.fixture
def column():
    return Strings.pack(WORDS)


def test_rows_come_back(column):
    assert list(column) == WORDS
    assert (len(column), column[0], column[-1]) == (5, "één", "three")
    assert list(column[1:3]) == ["", "two"]
    with pytest.raises(IndexError):
        column[5]


def test_taken_rows_share_the_buffer(column):
    taken = column.take(np.array([4, 0, 4]))

    assert list(taken) == ["three", "één", "three"]
    assert taken.buffer is column.buffer


def test_repeated_rows_are_stored_once():
    column = Strings.repeat("a long name", 1000)

    assert (len(column), column[999]) == (1000, "a long name")
    assert len(column.buffer) == 11


def test_joined_columns(column):
    joined = Strings.join([column[1:4], Strings.pack([]), column[:1]])

    assert list(joined) == ["", "two", "\udcff", "één"]
    assert list(Strings.join([])) == []


@pytest.mark.parametrize("rows", [[], [2], [4, 0, 4], list(range(5))])
def test_pickling_takes_along_what_is_used(column, rows):
    big = Strings.join([Strings.pack(["x" * 100_000]), column])
    taken = big.take(np.array(rows, np.int64) + 1)

    data = pickle.dumps(taken)

    assert pickle.loads(data) == taken
    assert len(data) < 2000


@pytest.fixture
def on_disk(tmp_path):
    path = tmp_path / "words"
    path.write_text("één two three", encoding="utf-8")
    return FileStrings(FileBytes.of(path), np.array([0, 0, 6, 10]), np.array([5, 0, 9, 15]))


def test_rows_on_disk(on_disk, column):
    assert list(on_disk) == ["één", "", "two", "three"]
    assert (on_disk[2], on_disk[-1]) == ("two", "three")
    assert pickle.loads(pickle.dumps(on_disk[1:])) == on_disk[1:]

    both = Strings.join([on_disk[2:], Strings.repeat("", 2), on_disk[:1]])
    assert list(both) == ["two", "three", "", "", "één"]
    assert isinstance(both, FileStrings)
    assert list(Strings.join([on_disk, column])) == [*on_disk, *column]


def test_a_file_that_changed_is_an_error(on_disk):
    path = on_disk.files.files[0][0]
    path.write_text("something else")

    with pytest.raises(DataError, match="was changed while it was in use"):
        list(on_disk)

    path.unlink()
    with pytest.raises(DataError, match="cannot be opened"):
        on_disk[0]
