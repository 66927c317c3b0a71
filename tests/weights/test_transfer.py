from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dhcli.errors import ConfigError, ModelError
from dhcli.models.contract import Detector
from dhcli.runtime.eager import restore_detector
from dhcli.weights.class_names import Match, match_names
from dhcli.weights.model_file import ModelFile
from dhcli.weights.transfer import transfer

CLS, REG = "head.branches.fc.cls", "head.branches.conv.reg"


def detector(model: ModelFile) -> Detector:
    return restore_detector(model, torch.device("cpu"))


def rows(tensor: Tensor, label: int, group: int = 4) -> Tensor:
    return tensor[label * group : (label + 1) * group]


def test_rows_go_with_their_names_and_new_ones_stay(small_model) -> None:
    source = small_model("car", "person", "Traffic Light", seed=1)
    fresh = detector(small_model("person", "tram", "traffic_light", "auto", seed=2))
    kept = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}

    started, table = transfer(
        source, fresh, ("person", "tram", "traffic_light", "auto"), {"auto": "car"}
    )

    assert table.rows == (
        Match("person", "person", "exact"),
        Match("tram", None, "new"),
        Match("traffic_light", "Traffic Light", "alike"),
        Match("auto", "car", "alias"),
    )
    assert table.unused == ()
    assert table.summary() == "4 classes: 1 exact, 1 new, 1 alike, 1 alias"
    for part in ("weight", "bias"):
        cls, old_cls = started[f"{CLS}.{part}"], source.state[f"{CLS}.{part}"]
        assert torch.equal(cls[[0, 1, 3, 4]], old_cls[[0, 2, 3, 1]])
        assert torch.equal(cls[2], kept[f"{CLS}.{part}"][2])
        reg, old_reg = started[f"{REG}.{part}"], source.state[f"{REG}.{part}"]
        for new, old in ((0, 1), (2, 2), (3, 0)):
            assert torch.equal(rows(reg, new), rows(old_reg, old))
        assert torch.equal(rows(reg, 1), rows(kept[f"{REG}.{part}"], 1))


def test_the_rest_is_copied_whole_and_inputs_stay(small_model) -> None:
    source = small_model("a", seed=1)
    fresh = detector(small_model("b", "c", seed=2))
    kept = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}

    started, table = transfer(source, fresh, ("b", "c"), {})

    rest = [name for name in fresh.state_dict() if ".cls." not in name and ".reg." not in name]
    assert len(rest) > 50
    assert all(torch.equal(started[name], source.state[name]) for name in rest)
    assert all(torch.equal(fresh.state_dict()[name], kept[name]) for name in fresh.state_dict())
    assert table.unused == ("a",)
    assert table.fresh == ()


def test_one_class_to_another_copies_no_row_but_the_background(small_model) -> None:
    source, fresh = small_model("a", seed=1), detector(small_model("b", seed=2))

    started, _ = transfer(source, fresh, ("b",), {})

    assert torch.equal(started[f"{REG}.weight"], fresh.state_dict()[f"{REG}.weight"])
    assert torch.equal(started[f"{CLS}.weight"][0], source.state[f"{CLS}.weight"][0])
    assert torch.equal(started[f"{CLS}.weight"][1], fresh.state_dict()[f"{CLS}.weight"][1])


def test_class_agnostic_boxes_are_copied_whole(small_model) -> None:
    source = small_model("a", "b", seed=1, class_agnostic=True)
    fresh = detector(small_model("c", "d", "e", seed=2, class_agnostic=True))

    started, _ = transfer(source, fresh, ("c", "d", "e"), {})

    assert torch.equal(started[f"{REG}.weight"], source.state[f"{REG}.weight"])


def test_predictors_that_the_source_has_not_stay_fresh_and_are_named(small_model) -> None:
    plain = [
        {"kind": "fc", "width": 24},
        {"kind": "conv", "width": 32, "residual": 2, "non_local": 1, "norm": "gn"},
    ]
    source, fresh = small_model("a", seed=1, branches=plain), detector(small_model("a", seed=2))

    started, table = transfer(source, fresh, ("a",), {})

    assert set(table.fresh) == {
        f"head.branches.{predictor}.{part}"
        for predictor in ("fc.reg", "conv.cls")
        for part in ("weight", "bias")
    }
    assert all(torch.equal(started[name], fresh.state_dict()[name]) for name in table.fresh)


def test_another_network_is_an_error(small_model) -> None:
    narrow = [{"kind": "fc", "width": 8}, {"kind": "conv", "width": 32, "norm": "gn"}]
    source, fresh = small_model("a", branches=narrow), detector(small_model("a"))

    with pytest.raises(ModelError, match="belong to another network") as caught:
        transfer(source, fresh, ("a",), {})

    assert "head.branches.fc.trunk.1.weight 8×784 instead of 24×784" in str(caught.value)


@pytest.mark.parametrize(
    ("aliases", "said", "hint"),
    [
        ({"vann": "car"}, "`vann` is not a class of the data", "did you mean `van`?"),
        ({"van": "kar"}, "the weights have no class `kar`", "did you mean `car`?"),
        ({"van": "zebra"}, "the weights have no class `zebra`", "there are: car, person"),
    ],
)
def test_an_alias_of_an_unknown_class_is_an_error(
    small_model, aliases: dict[str, str], said: str, hint: str
) -> None:
    source, fresh = small_model("car", "person"), detector(small_model("van"))

    with pytest.raises(ConfigError, match=said) as caught:
        transfer(source, fresh, ("van",), aliases)

    assert caught.value.hint == hint


def test_an_alias_comes_before_the_exact_name_and_exact_before_alike() -> None:
    known = ("Car", "car", "truck", "no-parking")

    found = match_names(("car", "CAR", "truck", "No Parking"), known, {"truck": "Car"})

    assert [(row.source, row.how) for row in found] == [
        ("car", "exact"),
        (None, "new"),  # two names are alike to it: neither is taken
        ("Car", "alias"),
        ("no-parking", "alike"),
    ]


def test_rows_of_boxes_are_found_behind_the_backgrounds(small_model) -> None:
    source = small_model("a", "b", seed=1, background_box=True)
    fresh = detector(small_model("b", "c", "d", seed=2, background_box=True))

    started, table = transfer(source, fresh, ("b", "c", "d"), {})

    assert torch.equal(started[f"{REG}.weight"][4:8], source.state[f"{REG}.weight"][8:12])
    assert torch.equal(started[f"{REG}.weight"][:4], source.state[f"{REG}.weight"][:4])
    assert torch.equal(started[f"{REG}.weight"][8:], fresh.state_dict()[f"{REG}.weight"][8:])
    assert table.fresh == ()


def test_boxes_by_buckets_are_of_all_classes_and_go_along(small_model) -> None:
    branches = [{"kind": "fc", "width": 8}, {"kind": "side", "width": 8}]
    source = small_model("car", "person", seed=1, branches=branches)
    fresh = detector(small_model("tram", "person", "bus", seed=2, branches=branches))

    started, table = transfer(source, fresh, ("tram", "person", "bus"), {})

    sides = [name for name in started if ".side." in name]
    assert len(sides) == 20
    assert all(torch.equal(started[name], source.state[name]) for name in sides)
    cls = f"{CLS}.weight"
    assert torch.equal(started[cls][[0, 2]], source.state[cls][[0, 2]])
    assert table.fresh == ()


def test_predicted_ious_go_with_their_classes(small_model) -> None:
    judge = {"kind": "fc", "name": "iou", "focus": "iou", "width": 8}
    branches = [{"kind": "fc", "width": 8, "lambda": 0.5}, judge]
    source = small_model("car", "person", seed=1, branches=branches)
    fresh = detector(small_model("tram", "person", "bus", seed=2, branches=branches))

    started, _ = transfer(source, fresh, ("tram", "person", "bus"), {})

    name = "head.branches.iou.iou.weight"
    assert torch.equal(started[name][1], source.state[name][1])
    assert torch.equal(started[name][0], fresh.state_dict()[name][0])
