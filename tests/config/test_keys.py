from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field
from pydantic.fields import FieldInfo

from dhcli.config.keys import SYNONYMS, allowed_range, known_keys
from dhcli.config.schema import Config


def known() -> list[str]:
    return [key for key, _ in known_keys({}, Config)]


def test_what_others_call_a_setting_is_one_of_ours() -> None:
    assert set(SYNONYMS.values()) - set(known()) == set()


def test_no_setting_is_hidden_behind_what_others_call_another() -> None:
    ours = {key.rpartition(".")[2] for key in known()}

    assert ours & set(SYNONYMS) == set()


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[float, Field(ge=0, le=1)], "in [0, 1]"),
        (Annotated[float, Field(lt=1, gt=0)], "in (0, 1)"),
        (Annotated[int, Field(ge=4, multiple_of=4)], "at least 4"),
        (Annotated[float, Field(gt=0)], "above 0"),
        (Annotated[float, Field(le=2.5)], "at most 2.5"),
        (Annotated[float, Field(lt=2)], "below 2"),
        (Annotated[float, Field()], None),
    ],
)
def test_a_range_in_words(annotation: object, words: str | None) -> None:
    assert allowed_range(FieldInfo.from_annotation(annotation)) == words  # type: ignore[arg-type]
