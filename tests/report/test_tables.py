import pytest
from rich.console import Console

from dhcli.metrics.result import ApResult
from dhcli.report.sheet import Column, unit_of
from dhcli.report.tables import ap_sheets
from dhcli.report.terminal import drawn

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.34567, "34.6"), (0.0, "0.0"), (1.0, "100.0"), (NAN, "n/a"), (12, "12"), (0, "0")],
)
def test_fractions_are_percent_and_counts_are_counts(value, shown) -> None:
    assert Column("x", unit_of(value)).text(value) == shown


def render(metric: str, result: ApResult) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        for sheet in ap_sheets(metric, result):
            console.print(drawn(sheet, titles=True))
    return capture.get()


def test_coco_on_80_columns() -> None:
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    row = {"AP": 0.4, "AP50": 0.6, "AP75": 0.5, "AR100": NAN, "objects": 123456, "detections": 7}
    result = ApResult(
        stats={name: index / 100 for index, name in enumerate(names)},
        per_class={"z" * 70: row, "cat": row},
    )

    lines = render("coco", result).splitlines()

    assert max(map(len, lines)) <= 80
    assert ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"] in [line.split() for line in lines]
    assert ["6.0", "7.0", "8.0", "9.0", "10.0", "11.0"] in [line.split() for line in lines]
    assert ["cat", "40.0", "60.0", "50.0", "n/a", "123,456", "7"] in [
        line.split() for line in lines
    ]
    assert sum(line.count("z") for line in lines) == 70
    assert "COCO (percent)" in lines[0]


@pytest.mark.parametrize("metric", ["voc07", "voc12", "kitti"])
def test_metrics_of_fewer_numbers(metric) -> None:
    text = render(metric, ApResult({"mAP": 0.5}, {"[bold]cat": {"AP": 0.5, "objects": 2}}))

    assert metric[:3].upper() in text
    assert ["mAP"] in [line.split() for line in text.splitlines()]
    assert "[bold]cat" in text


def test_no_class_at_all() -> None:
    assert "by class" in render("coco", ApResult({"AP": NAN}, {}))
