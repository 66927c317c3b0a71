import pytest

from dhcli.errors import ConfigError, DhError
from dhcli.metrics.bars import Limit, check_limits, parse_limit
from dhcli.metrics.result import ApResult

BOTH = ("coco", "voc07", "voc12")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("AP50=0.5", Limit("coco", "AP50", 0.5)),
        (" coco.AP = 1 ", Limit("coco", "AP", 1.0)),
        ("voc12.mAP=.25", Limit("voc12", "mAP", 0.25)),
    ],
)
def test_a_limit_is_a_name_and_a_fraction(text, limit) -> None:
    assert parse_limit(text, BOTH) == limit


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("AP50", "`AP50` is not a metric with a value between 0 and 1"),
        ("AP50=half", "is not a metric with a value between 0 and 1"),
        ("AP50=50", "is not a metric with a value between 0 and 1"),
        ("AP50=nan", "is not a metric with a value between 0 and 1"),
        ("AP60=0.5", "`AP60` is not measured"),
        ("kitti.easy=0.5", "`kitti.easy` is not measured"),
        ("mAP=0.5", "several metrics have `mAP`"),
    ],
)
def test_what_cannot_be_a_limit_is_an_error(text, said) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        parse_limit(text, BOTH)

    assert error.value.hint


def results_of(value):
    return {"coco": ApResult({"AP": value, "AP50": 0.7}, {})}


@pytest.mark.parametrize("value", [0.5, 0.9])
def test_a_number_that_reaches_its_limit_passes(value) -> None:
    check_limits(results_of(value), [Limit("coco", "AP", 0.5), Limit("coco", "AP50", 0.1)])


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.31234, "coco AP is 0.3123, below 0.5"), (float("nan"), "coco AP is undefined")],
)
def test_a_number_below_its_limit_is_stated(value, said) -> None:
    with pytest.raises(DhError, match=said) as error:
        check_limits(results_of(value), [Limit("coco", "AP", 0.5)])

    assert error.value.exit_code == 1


def test_every_number_below_is_stated() -> None:
    with pytest.raises(DhError, match=r"AP is 0\.1000.*; coco AP50 is 0\.7000"):
        check_limits(results_of(0.1), [Limit("coco", "AP", 0.5), Limit("coco", "AP50", 0.8)])
