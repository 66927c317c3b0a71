"""What a table says of its boxes and of its source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dhcli.data.strings import Strings
from dhcli.data.table import ANY_CLASS, FIRST_PIXEL, SOURCE, DetectionTable, Flag
from dhcli.errors import DataError


@pytest.fixture
def marked(sample: DetectionTable) -> DetectionTable:
    """Five boxes: difficult, truncated, unmarked, a crowd, to ignore; the last of no class."""
    flags = [Flag.DIFFICULT, Flag.TRUNCATED, 0, Flag.CROWD, Flag.IGNORE]
    return replace(sample, flags=np.array(flags, np.uint8))


def test_regions_are_crowds_and_what_is_ignored_or_of_no_class(marked: DetectionTable) -> None:
    assert marked.regions().tolist() == [False, False, False, True, True]
    assert marked.regions(crowds=False).tolist() == [False, False, False, False, True]

    of_no_class = replace(marked, flags=np.zeros(5, np.uint8))
    assert of_no_class.regions().tolist() == (of_no_class.labels == ANY_CLASS).tolist()


def test_difficult_boxes_are_taught_where_they_are_kept(marked: DetectionTable) -> None:
    assert marked.taught("keep").tolist() == [True, True, True, False, False]
    assert marked.taught("ignore").tolist() == [False, True, True, False, False]


def test_boxes_that_are_taken_make_a_sound_table(sample: DetectionTable) -> None:
    table = replace(sample, scores=np.arange(5.0), extras={"track": np.arange(5)})

    few = table.keep_boxes(np.array([True, False, False, False, True]))

    assert (len(few), few.offsets.tolist()) == (3, [0, 1, 1, 2])
    assert few.extras["track"].tolist() == [0, 4]
    assert few.take_images(np.array([2])).box_ids.tolist() == [100]


def test_images_count_from_the_end_as_in_a_list(sample: DetectionTable) -> None:
    last = len(sample) - 1

    assert (sample.path(-1), sample.rows(-1)) == (sample.path(last), sample.rows(last))
    with pytest.raises(IndexError):
        sample.rows(len(sample))


def test_ids_become_positive_and_distinct(sample: DetectionTable) -> None:
    table = replace(sample, box_ids=np.array([5, 0, 5, -1, 7]))

    assert table.with_sound_ids().box_ids.tolist() == [5, 8, 9, 10, 7]


def test_what_the_source_said_can_be_asked_for_and_left_out(sample: DetectionTable) -> None:
    texts = Strings.pack(["", '{"id": 7, "city": "Ulm"}', ""])
    boxes = Strings.pack(["a", "b", "", "c", "d"])
    table = replace(sample, extras={SOURCE: boxes}, image_extras={SOURCE: texts})

    assert list(table.source_fields()) == [{}, {"id": 7, "city": "Ulm"}, {}]
    assert list(sample.source_fields()) == []
    assert list(table.without_source(table.labels == 0).extras[SOURCE]) == ["", "b", "", "", "d"]
    assert not table.without_source().extras
    assert not table.without_source().image_extras


def test_a_source_nested_too_deep_is_an_error(sample: DetectionTable) -> None:
    table = replace(sample, about={SOURCE: "[" * 100_000})

    with pytest.raises(DataError, match="nested too deep"):
        table.source_of_all()


def test_the_first_pixel_is_0_where_files_do_not_say(sample: DetectionTable) -> None:
    assert sample.first_pixel == 0
    assert replace(sample, about={FIRST_PIXEL: "1"}).first_pixel == 1
