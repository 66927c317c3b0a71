"""Columns of text: shared when rows are taken, small when sent to another process."""

import pickle

import numpy as np
import pytest

from dhcli.data.table import Strings

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
