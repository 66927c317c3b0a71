"""Every reader against hostile input: a table or a DhError comes out, soon, and in little memory.

hypothesis draws a dataset, each format writes it, its files are damaged (bytes, words, values of
JSON, the files themselves), and it is read, checked, mended and written again. A new format is
covered by being in FORMATS. A few dozen inputs a format run by default; the campaign is

    DH_FUZZ=1200 pytest -m slow tests/data/test_fuzz.py

with so many inputs a format: 20,000 in all for 17 of them.
"""

import json
import os
import random
import re
import shutil
import signal
import tracemalloc
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from dhcli.data.formats import FORMATS, read_dataset, write_dataset
from dhcli.data.table import ANY_CLASS, make_table
from dhcli.data.tools.check import check_table
from dhcli.data.tools.mend import mend_for_training
from dhcli.data.tools.scan import scan_images
from dhcli.errors import DhError

INPUTS = int(os.environ.get("DH_FUZZ", "1200"))
DATASET = 20
"""Damaged copies of each dataset that is drawn."""
SECONDS = 20
TIMES, SPARE = 20, 16 << 20
"""Memory may be so many times the files, and what a window of a stream takes."""

PIECES = [
    *(b"NaN", b"Infinity", b"1e308", b"1e999", b"-1", b"0", b"null", b"true", b"9" * 25, b"1e-320"),
    *(b"[]", b"{}", b'""', b"[" * 300, b"{" * 300, b"<a>", b"<!DOCTYPE a>", b"&lt;", b"&a;"),
    *(b"..", b"/", b"\\", b"\\ud800", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\xe9", b"\r", b"\n"),
    *(b" ", b",", b";", b":", b'"', b"'", b"#", b"%", b"- ", b"a" * 300, b"../../etc", b"C:\\"),
    *("١".encode(), "é".encode(), "\u2028".encode(), b"\x85", b"\x1c", b"0x10", b"1_000", b"--"),
]
VALUES = [
    *(None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, -0.5, float("nan"), float("inf")),
    *("", "x", "\ud800", "../x", "/etc/passwd", "a\x00b", "7", [], {}, [[]], [1], {"a": 1}),
    *([0] * 5, ["x"] * 4, [None] * 4, "\n", "CON", "x" * 3000),
]
NAMES = ["a", "B", "two words", "DontCare", "käfer", "7", "no", "#x", "a,b", "<&>", '"q"', "x:y"]


@st.composite
def tables(draw, root):
    """Up to four images in up to two splits; boxes inside, outside, flat or huge; odd names."""
    count = draw(st.integers(1, 4))
    classes = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    counts = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    side = st.one_of(st.integers(-5, 50), st.floats(-1e6, 1e6), st.sampled_from([0.1, 1e300]))
    boxes = draw(st.lists(st.tuples(*[side] * 4), min_size=sum(counts), max_size=sum(counts)))
    labels = st.integers(ANY_CLASS, len(classes) - 1)
    of_boxes = {"min_size": len(boxes), "max_size": len(boxes)}
    columns = {"flags": np.array(draw(st.lists(st.integers(0, 31), **of_boxes)), np.uint8)}
    if draw(st.booleans()):
        scores = draw(st.lists(st.floats(0, 1), **of_boxes))
        columns["scores"] = np.array(scores, np.float64)
    if draw(st.booleans()):
        cut = draw(st.integers(0, count))
        columns["splits"] = {"train": np.arange(cut), "val": np.arange(cut, count)}
    labels = draw(st.lists(labels, **of_boxes))
    files = [f"{number}.png" for number in range(count)]
    sizes = [[40, 30]] * count
    return make_table(root, files, sizes, counts, boxes, labels, classes, **columns)


def damage_bytes(data, dice):
    """A few bytes cut out, put in or changed."""
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 5])):
        start = dice.randrange(len(changed) + 1)
        stop = start + dice.choice([0, 0, 1, 8])
        changed[start:stop] = dice.choice([b"", bytes([dice.randrange(256)]), dice.choice(PIECES)])
    return bytes(changed)


def damage_words(data, dice):
    """A word in place of another, or twice, or none."""
    words = re.split(rb"([\s,:;<>\[\]{}\"']+)", data)
    where = dice.randrange(len(words))
    words[where] = dice.choice([b"", words[where] * 2, dice.choice(words), dice.choice(PIECES)])
    return b"".join(words)


def damage_whole(data, dice):
    """Cut short, doubled, in another encoding, with other ends of lines, or something else."""
    text = data.decode("utf-8", "replace")
    return dice.choice(
        [
            *(b"", data[: dice.randrange(len(data) + 1)], data * 2, b"\xef\xbb\xbf" + data),
            *(text.encode("utf-16"), text.encode("latin-1", "replace")),
            *(data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r"), data.upper()),
            *(b"[" * 10_000, b'{"a":' * 10_000, b"<a>" * 10_000, b"\x00" * 100, b"- " * 3000),
        ]
    )


def damage_json(data, dice):
    """Another value somewhere in the document, none, or the same key again."""
    try:
        document = json.loads(data)
    except ValueError:
        return damage_words(data, dice)
    place = document
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = dice.choice(keys)
        inside = place[key]
        if not inside or not isinstance(inside, dict | list) or dice.random() < 0.15:
            if isinstance(place, dict) and dice.random() < 0.2:
                del place[key]
            else:
                place[key] = dice.choice(VALUES)
            break
        place = inside
    return json.dumps(document).encode()


DAMAGES = [damage_bytes, damage_bytes, damage_words, damage_json, damage_whole]


@contextmanager
def damaged(folder, dice):
    """One file of a dataset, or what stands in its place, is not as it was while the block runs."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    texts = [path for path in files if path.suffix not in (".png", ".jpg")]
    path = dice.choice(texts if dice.random() < 0.95 else files)
    is_link, data = path.is_symlink(), path.read_bytes()
    target = path.resolve()
    path.unlink()
    match dice.random():
        case chance if chance < 0.9:
            path.write_bytes(dice.choice(DAMAGES)(data, dice))
        case chance if chance < 0.92:
            path.mkdir()
        case chance if chance < 0.94:
            os.mkfifo(path)
        case chance if chance < 0.96:
            path.symlink_to(path)
        case chance if chance < 0.98:
            path.symlink_to(folder)
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(target) if is_link else path.write_bytes(data)


@contextmanager
def bounded(folder, *, memory):
    """Within SECONDS and, where asked for, in memory that goes by the size of the files."""

    def stop(*_):
        raise TimeoutError(f"took more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    if memory:
        tracemalloc.start()
    try:
        yield
        if memory:
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            peak = tracemalloc.get_traced_memory()[1]
            assert peak < TIMES * size + SPARE, f"{peak} bytes for files of {size}"
    finally:
        signal.alarm(0)
        tracemalloc.stop()


def read_and_use(folder, format, named, out):
    """What a user would do; errors for people are fine."""
    with suppress(DhError):
        table = read_dataset(folder, format=format if named else None)
        check_table(table, scan_images(table, decode=False))
        mended = mend_for_training(table, scan_images(table, decode=False), on_bad_image="skip")[0]
        write_dataset(mended, out, format, images="none")
    shutil.rmtree(out, ignore_errors=True)


def fuzz(folder, format, inputs):
    images = folder / "images"
    images.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30)).save(images / f"{number}.png")

    @settings(
        max_examples=max(1, inputs // DATASET),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # to shrink takes longer than to look
        suppress_health_check=list(HealthCheck),
    )
    @given(tables(images), st.integers(0, 2**32))
    def run(table, seed):
        written = folder / "in"
        shutil.rmtree(written, ignore_errors=True)
        write_dataset(table, written, format, images="link")
        dice = random.Random(seed)
        for number in range(min(DATASET, inputs)):
            with damaged(written, dice), bounded(written, memory=number % 10 == 0):
                read_and_use(written, format, number % 2, folder / "out")

    run()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.filterwarnings("error")
def test_damage_is_an_error_for_people(tmp_path, format):
    fuzz(tmp_path, format, 3 * DATASET)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.filterwarnings("error")
def test_campaign(tmp_path, format):
    fuzz(tmp_path, format, INPUTS)
