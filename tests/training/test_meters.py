from __future__ import annotations

import json

import torch

from dhcli.training.meters import LossMeter, Stopwatch


def _losses(cls: float, reg: float) -> dict[str, torch.Tensor]:
    return {"loss_cls": torch.tensor(cls), "loss_reg": torch.tensor(reg)}


def test_meter_means_over_the_interval_and_over_the_epoch() -> None:
    meter = LossMeter()
    meter.add(_losses(1, 2))
    meter.add(_losses(3, 4))
    first = meter.interval()
    meter.add(_losses(8, 0))

    assert first == {"loss_cls": 2, "loss_reg": 3, "loss": 5}
    assert meter.interval() == {"loss_cls": 8, "loss_reg": 0, "loss": 8}
    assert meter.epoch() == {"loss_cls": 4, "loss_reg": 2, "loss": 6}
    assert meter.interval() == {}


def test_meter_goes_on_from_its_state() -> None:
    meter, other = LossMeter(), LossMeter()
    meter.add(_losses(1, 2))
    meter.interval()
    meter.add(_losses(0.1, 0.2))

    other.load_state_dict(json.loads(json.dumps(meter.state_dict())))
    for one in (meter, other):
        one.add(_losses(0.3, 0.7))

    assert other.interval() == meter.interval()
    assert other.epoch() == meter.epoch()


def test_empty_meter_has_a_state() -> None:
    meter = LossMeter()

    meter.load_state_dict(LossMeter().state_dict())
    meter.add(_losses(1, 2))

    assert meter.interval()["loss"] == 3


def test_stopwatch_shares_out_the_time() -> None:
    time = 100.0
    watch = Stopwatch(lambda: time)

    with watch.waiting():
        time += 1
    time += 3
    watch.images, watch.iterations = 8, 2

    assert watch.lap() == (2.0, 0.25)
    assert watch.eta(remaining=5) == 10.0
    time += 5
    watch.images = 5
    assert watch.lap() == (1.0, 0.0)
