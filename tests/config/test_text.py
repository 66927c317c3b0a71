from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dhcli.config.text import looks_like_number, parse_value, read_yaml, write_scalar
from dhcli.config.tree import Written, leaves
from dhcli.errors import ConfigError


def read(folder: Path, text: str) -> dict[str, object]:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return {key: leaf.value for key, leaf in leaves(read_yaml(path))}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),  # YAML 1.1: text
        ("1E3", 1000.0),
        ("5.", 5.0),
        (".5", 0.5),
        ("-7", -7),
        ("010", 10),  # YAML 1.1: octal 8
        (".inf", float("inf")),
        ("true", True),
        ("False", False),
        ("no", "no"),  # YAML 1.1: false
        ("on", "on"),
        ("NO", "NO"),
        ("y", "y"),
        ("12:30", "12:30"),  # YAML 1.1: 750
        ("2024-01-31", "2024-01-31"),  # YAML 1.1: a date
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("'5'", "5"),
        ("e5", "e5"),
        (".", "."),
        ("null", None),
        ("", None),
        ("[no, 1e2, on]", ["no", 100.0, "on"]),
    ],
)
def test_a_plain_value_means_what_it_looks_like(text: str, value: object) -> None:
    assert parse_value(text, "--set") == Written(value, "--set")


def test_not_a_number_is_read() -> None:
    read = parse_value(".nan", "--set")

    assert isinstance(read, Written)
    assert read.value != read.value


def test_every_value_remembers_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# a comment\na:\n  b: 1\nlist:\n  - {c: 2}\n  - d: 3\n", encoding="utf-8")

    places = {key: leaf.origin for key, leaf in leaves(read_yaml(path))}

    assert places == {
        "a.b": f"file {path}:3",
        "list.0.c": f"file {path}:5",
        "list.1.d": f"file {path}:6",
    }


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "# only words\n") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: the key `a` is written twice"),
        ("a: [1\n", "x.yaml:2: is not YAML: expected ',' or ']'"),
        ("a: 1\n b: 2\n", "x.yaml:2: is not YAML: mapping values are not allowed here"),
        ("a: &x 1\nb: *x\n", "x.yaml:2: is not YAML: aliases"),
        ("a: !!python/object/apply:os.system [x]\n", "x.yaml:1: the tag `!!python"),
        ("a:\n  - !!python/object:x {b: 1}\n", "x.yaml:2: the tag `!!python/object:x`"),
        ("a: !!python/name:os.system x\n", "x.yaml:1: the tag `!!python/name:os.system`"),
        ("a: !!int abc\n", "x.yaml:1: `abc` cannot be read"),
        ("1: a\n", "x.yaml:1: the key `1` must be text"),
        ("- 1\n- 2\n", "x.yaml: must hold lines of the form"),
        ("a: \x01\n", "is not YAML: it contains characters that are not text"),
        ("a: " + "[" * 5000 + "\n", "is nested too deeply"),
        ("a: " + "9" * 5000 + "\n", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_names_the_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)

    assert said in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")

    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8 text"):
        read_yaml(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@settings(deadline=None)  # machines are slow at times
@given(st.recursive(plain, lambda inner: st.lists(inner.filter(lambda v: v is not None))))
@example(["a\nb", "\u2028", "\x85", " a", "#", "a: b", "- a", "{", "\t"])
@example("a\n")
def test_a_written_value_reads_back_the_same_on_one_line(value: object) -> None:
    text = write_scalar(value)

    read = parse_value(text, "--set")

    assert "\n" not in text
    assert isinstance(read, Written)
    assert read.value == value
    assert type(read.value) is type(value)


@pytest.mark.parametrize("word", ["no", "on", "1e-4", "010", "08", "12:30", "2024-01-31", "~", ""])
def test_written_words_are_quoted_for_other_readers_too(word: str) -> None:
    text = write_scalar(word)

    assert yaml.safe_load(text) == word


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), ("1e-3", True), ("true", True), ("no", False), ("", False), (1, False)],
)
def test_what_looks_like_a_number(value: object, expected: bool) -> None:
    assert looks_like_number(value) is expected
