"""Words for people."""

import pytest

from dhcli.words import counted


@pytest.mark.parametrize(
    ("count", "what", "said"),
    [
        (1, "image", "1 image"),
        (0, "image", "0 images"),
        (2, "box of no class", "2 boxes of no class"),
        (118287, "class: left out", "118,287 classes: left out"),
        (2, "epoch", "2 epochs"),
        (2, "category", "2 categories"),
    ],
)
def test_the_first_word_is_counted(count: int, what: str, said: str) -> None:
    assert counted(count, what) == said
