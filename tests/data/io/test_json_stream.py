"""The fast way through a JSON file: it gives what the careful one gives, or steps aside."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dhcli.data.formats import coco_entries
from dhcli.data.formats.coco_entries import read_entries
from dhcli.data.io import json_stream
from dhcli.data.io.json_stream import JsonStream, NotPlain
from dhcli.errors import DataError

ROWS = msgspec.json.Decoder(list[dict[str, int]])


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(json_stream, "_WINDOW", 64)
    monkeypatch.setattr(json_stream, "_VALUE", 16)


@pytest.fixture
def stream(tmp_path):
    def read(text):
        path = tmp_path / "some.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        found = []

        def take(objects):
            data = path.read_bytes()
            spans = zip(objects.starts.tolist(), objects.stops.tolist(), strict=True)
            rows = objects.plain()
            assert [json.loads(data[start:stop]) for start, stop in spans] == rows
            found.extend(rows)

        others = JsonStream(path).read_object({"rows": take})
        return found, others

    return read


@pytest.mark.parametrize("spacing", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_rows_and_the_rest(stream, spacing, mark):
    rows = [{"a": k, "b": {"c": [k, {"d": "x" * k}]}} for k in range(30)]
    document = {"info": {"n": 12345678, "text": "y" * 90}, "rows": rows, "last": "é"}

    text = json.dumps(document, **spacing, ensure_ascii=False).encode()

    assert stream(mark + text) == (rows, {k: v for k, v in document.items() if k != "rows"})


@pytest.mark.parametrize("text", ['{"rows": []}', '{"rows": [ ] , "a": 1}', "{}", ' {"rows": 3} '])
def test_no_rows(stream, text):
    others = {key: value for key, value in json.loads(text).items() if value != []}

    assert stream(text) == ([], others)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"rows": [{}',
        '{"rows": [{}]',
        '{"rows": [{},]}',
        '{"rows": [,{}]}',
        '{"rows": [{} {}]}',
        '{"rows": [{},,{}]}',
        '{"rows": [{}, 3, {}]}',
        '{"rows": [{}, [{}, {}]]}',
        '{"rows": [{"a": "}, {"}]}',
        '{"rows": [{"a": "{"}, {"a": "}"}, {"a": "},{"}]}',
        '{"rows": [{"a": "\\"{"}]}',
        '{"rows": [{"a": NaN1}]}',
        '{"rows": []} x',
        '{"rows": [], "a": tru}',
        b'{"rows": [{"a": "\xff"}]}',
        b'{"rows": [], "a": "\xff"}',
        '{"rows": []}'.encode("utf-16"),
    ],
)
def test_what_is_not_plain_is_left_to_others(stream, text):
    with pytest.raises(NotPlain):
        stream(text)


def test_an_object_without_end_is_given_up_soon(stream, monkeypatch):
    monkeypatch.setattr(json_stream, "_LARGEST", 1000)

    with pytest.raises(NotPlain):
        stream('{"rows": [{"a": [' + "0, " * 5000 + "0]}]}")


letters = st.text('a3 "{}\\é', max_size=5)
plain = st.fixed_dictionaries(
    {"image_id": st.sampled_from([1, 2, 3]), "category_id": st.just(5)},
    optional={
        "bbox": st.lists(
            st.one_of(st.floats(allow_nan=False), st.integers()), min_size=4, max_size=4
        ),
        "area": st.one_of(st.none(), st.floats(), st.integers()),
        "id": st.one_of(st.integers(), letters, st.none()),
        "iscrowd": st.sampled_from([0, 1, True, None]),
        "segmentation": st.sampled_from([[], [[1, 2, 3.5]], None, {"counts": "}{", "size": [1]}]),
        "note": letters,
    },
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(plain, max_size=12), st.booleans())
def test_both_ways_tell_the_same(tmp_path_factory, annotations, with_boxes):
    path = tmp_path_factory.getbasetemp() / "some.json"
    annotations = [({"bbox": [0, 1, 2, 3]} if with_boxes else {}) | row for row in annotations]
    images = [{"id": k, "file_name": f"{k}.jpg", "width": k} for k in (1, 2)]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 5}]}
    path.write_text(json.dumps(document))

    told = [_tell(read, path) for read in (read_entries, _carefully)]

    assert told[0] == told[1]


def _carefully(path):
    entries = coco_entries._read_carefully(path)
    entries.order_classes()
    return entries


def _tell(read, path):
    try:
        entries = read(path)
    except DataError as error:
        return str(error)
    columns = [*entries.labels_and_flags(), entries.boxes, entries.areas, entries.box_ids]
    columns += [entries.image_of_box, entries.image_ids, entries.sizes]
    texts = [None if column is None else list(column) for column in entries.texts()]
    return [np.asarray(column).tobytes() for column in columns], texts, entries.about


def test_most_files_are_plain(tmp_path, monkeypatch):
    monkeypatch.delattr(coco_entries, "JsonText")
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3.5, 4], "area": 2, "iscrowd": 0}
    rows = [row, row | {"segmentation": [[1, 2, 3]]}, row | {"extra": "é"}, row | {"area": None}]
    image = {"id": 1, "file_name": "a.jpg", "license": 3}
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"images": [image], "annotations": rows, "categories": [{"id": 1}]}))

    entries = read_entries(path)

    assert len(entries.boxes) == 4
    texts = entries.texts()[0]
    assert [bool(text) for text in texts] == [False, True, True, False]
    assert json.loads(texts[1]) == rows[1]
