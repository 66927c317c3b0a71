"""Choices by `kind`, wherever they stand: toy trees of them, two deep, in members and in lists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

from dhcli.config.keys import known_keys, unknown_keys
from dhcli.config.load import config_from_dict, config_to_dict, dump_config, load_config, resolve
from dhcli.config.reference import json_schema, reference_page
from dhcli.config.schema import Backbone, ByKind, Config, Neck, NoNeck, ResNet, TwoStage
from dhcli.config.schema.base import AtLeastOne, Fraction, Section
from dhcli.config.tree import as_tree
from dhcli.errors import ConfigError
from tests.toy import widened


class Round(Section):
    """A round wheel."""

    kind: Literal["round"] = "round"
    """round"""
    radius: AtLeastOne = 3
    """In metres."""
    grip: Fraction = 0.5
    """Of the tyre."""


class Square(Section):
    """A square wheel."""

    kind: Literal["square"] = "square"
    """square"""
    side: AtLeastOne = 4
    """In metres."""
    grip: Fraction = 0.25
    """Of the edge."""


class Oval(Section):
    """An oval wheel, which has no usual length."""

    kind: Literal["oval", "egg"] = "oval"
    """oval or egg"""
    length: AtLeastOne
    """In metres."""


class Cart(Section):
    """A cart: one sort of wheel, and spare ones."""

    kind: Literal["cart"] = "cart"
    """cart"""
    wheel: Annotated[Round | Square | Oval, ByKind("round")] = Round()
    spare: tuple[Annotated[Round | Square, ByKind()], ...] = (Square(), Round(radius=2))
    """Spare wheels."""
    load: AtLeastOne = 10
    """In kilograms."""


class Sledge(Section):
    """A sledge, whose parts lie on carts."""

    kind: Literal["sledge"] = "sledge"
    """sledge"""
    runners: AtLeastOne = 2
    """How many."""
    carts: tuple[Annotated[Cart, ByKind("cart")], ...] = ()
    """Carts that it lies on."""


class Yard(Section):
    """The root."""

    name: str = "yard"
    """Its name."""
    vehicle: Annotated[Cart | Sledge, ByKind("cart")] = Cart()
    only: Annotated[Sledge, ByKind("sledge")] = Sledge()


def made(*layers: dict[str, Any], sets: tuple[str, ...] = ()) -> tuple[Yard, dict[str, str]]:
    trees = [as_tree(layer, f"layer {number}") for number, layer in enumerate(layers, 1)]
    assert all(isinstance(tree, dict) for tree in trees)
    return resolve(Yard, trees, sets)  # type: ignore[arg-type]


def refused(*layers: dict[str, Any], sets: tuple[str, ...] = ()) -> tuple[str, str | None]:
    with pytest.raises(ConfigError) as caught:
        made(*layers, sets=sets)
    return str(caught.value), caught.value.hint


# what is written counts for which kind


def test_without_a_kind_the_default_one_is_meant() -> None:
    yard, origins = made({"vehicle": {"wheel": {"radius": 5}}})

    assert yard == Yard(vehicle=Cart(wheel=Round(radius=5)))
    assert Yard.model_validate({"vehicle": {"wheel": {"radius": 5}}}) == yard
    assert origins["vehicle.wheel.kind"] == "default"
    assert origins["vehicle.wheel.radius"] == "layer 1"


def test_a_changed_kind_drops_what_lower_layers_wrote_for_the_other() -> None:
    yard, origins = made(
        {"vehicle": {"load": 3, "wheel": {"radius": 5, "grip": 1.0}}},
        {"vehicle": {"wheel": {"kind": "square"}}},
        {"vehicle": {"wheel": {"side": 7}}},
    )

    assert yard == Yard(vehicle=Cart(load=3, wheel=Square(side=7, grip=0.25)))
    assert origins["vehicle.wheel.kind"] == "layer 2"
    assert origins["vehicle.wheel.grip"] == "default"
    assert origins["vehicle.wheel.side"] == "layer 3"


def test_the_same_kind_said_again_drops_nothing() -> None:
    yard, _ = made({"vehicle": {"wheel": {"radius": 5}}}, {"vehicle": {"wheel": {"kind": "round"}}})

    assert yard == Yard(vehicle=Cart(wheel=Round(radius=5)))


def test_a_kind_changed_and_changed_back_starts_from_the_defaults() -> None:
    layers: list[dict[str, Any]] = [
        {"vehicle": {"wheel": {"radius": 5}}},
        {"vehicle": {"wheel": {"kind": "square"}}},
        {"vehicle": {"wheel": {"kind": "round"}}},
    ]

    assert made(*layers)[0] == Yard()


def test_an_item_of_the_new_kinds_default_list_can_be_changed_with_it() -> None:
    layers: list[dict[str, Any]] = [
        {"vehicle": {"kind": "sledge"}},
        {"vehicle": {"kind": "cart", "spare": {"square": {"side": 9}}}},
    ]

    assert made(*layers)[0] == Yard(vehicle=Cart(spare=(Square(side=9), Round(radius=2))))


def test_two_kinds_of_one_class_share_what_is_written() -> None:
    layers: list[dict[str, Any]] = [
        {"vehicle": {"wheel": {"kind": "oval", "length": 5}}},
        {"vehicle": {"wheel": {"kind": "egg"}}},
    ]

    assert made(*layers)[0] == Yard(vehicle=Cart(wheel=Oval(kind="egg", length=5)))


def test_all_set_are_one_layer_in_any_order() -> None:
    one, other = "vehicle.wheel.kind=square", "vehicle.wheel.side=7"

    expected = Yard(vehicle=Cart(wheel=Square(side=7)))
    assert made(sets=(one, other))[0] == made(sets=(other, one))[0] == expected
    assert made(sets=("vehicle.wheel={kind: oval, length: 3}", one, other))[0] == expected


def test_a_key_set_for_a_kind_that_a_later_set_changes_goes_with_it() -> None:
    sets = ("vehicle={kind: cart, load: 3}", "vehicle.kind=sledge", "vehicle.runners=1")

    assert made(sets=sets)[0] == Yard(vehicle=Sledge(runners=1))


def test_kinds_within_kinds_and_lists() -> None:
    carts = [{"load": 1, "wheel": {"kind": "oval", "length": 2}}, {"wheel": {"grip": 1.0}}]
    layer = {"vehicle": {"kind": "sledge", "carts": carts}}

    yard, _ = made(layer, sets=("vehicle.carts.1.wheel={kind: square, side: 9}",))

    assert yard.vehicle == Sledge(
        carts=(Cart(load=1, wheel=Oval(length=2)), Cart(wheel=Square(side=9)))
    )


def test_an_item_that_states_no_kind_has_its_origins_under_the_name_that_is_dumped() -> None:
    layer = {"only": {"carts": [{"wheel": {"kind": "oval", "length": 2}}]}}

    yard, origins = made(layer, sets=("only.carts.0.load=3",))

    assert yard.only == Sledge(carts=(Cart(load=3, wheel=Oval(length=2)),))
    assert origins["only.carts.cart.load"] == "--set"
    assert origins["only.carts.cart.wheel.kind"] == "layer 1"
    assert origins["only.carts.cart.kind"] == "default"


def test_an_item_of_a_default_list_changes_its_kind() -> None:
    yard, _ = made(sets=("vehicle.spare.square={kind: round, grip: 0.75}",))

    assert yard.vehicle == Cart(spare=(Round(grip=0.75), Round(radius=2)))


def test_merging_another_kind_changes_neither_side() -> None:
    low = as_tree({"vehicle": {"load": 3}}, "low")
    high = as_tree({"vehicle": {"kind": "sledge"}}, "high")
    before = json.dumps([str(low), str(high)])

    resolve(Yard, [low, high])  # type: ignore[list-item]

    assert json.dumps([str(low), str(high)]) == before


# what is wrong is said with its key and its place


@pytest.mark.parametrize(
    ("setting", "said", "hint"),
    [
        (
            "vehicle.kind=sledg",
            "`vehicle.kind` must be `cart` or `sledge`, got sledg (--set)",
            "did you mean `sledge`?",
        ),
        ("only.kind=cart", "`only.kind` must be `sledge`, got cart (--set)", None),
        (
            "vehicle.wheel.kind=3",
            "`vehicle.wheel.kind` must be `round`, `square`, `oval` or `egg`, got 3 (--set)",
            None,
        ),
        ("vehicle.wheel.kind=null", "`vehicle.wheel.kind` must be `round`, `square`, ", None),
        ("vehicle=3", "`vehicle` must hold `key: value` lines, got 3 (--set)", None),
        ("only=[1]", "`only` must hold `key: value` lines, got [1] (--set)", None),
        (
            "vehicle.wheel.grip=2",
            "`vehicle.wheel.grip` must lie in [0, 1], got 2 (--set)",
            None,
        ),
        (
            "vehicle.wheel={kind: square, side: 0}",
            "`vehicle.wheel.side` must be at least 1, got 0 (--set)",
            None,
        ),
        (
            "vehicle.wheel={kind: oval}",
            "`vehicle.wheel.length` is missing",
            None,
        ),
        ("vehicle.spare=[{grip: 1}]", "`vehicle.spare.0` must say its `kind` (--set)", None),
        (
            "vehicle.spare=[{kind: oval}]",
            "`vehicle.spare.oval` must have as `kind` one of `round`, `square`, got ",
            None,
        ),
        (
            "vehicle.spare=[3]",
            "`vehicle.spare.0` must hold `key: value` lines, got 3 (--set)",
            None,
        ),
        (
            "only.carts=[{wheel: {kind: square, grip: 7}}]",
            "`only.carts.0.wheel.grip` must lie in [0, 1], got 7 (--set)",
            None,
        ),
        (
            "only.carts=[{kind: cart, wheel: {kind: sqare}}]",
            "`only.carts.cart.wheel.kind` must be `round`, `square`, `oval` or `egg`, got sqare",
            "did you mean `square`?",
        ),
        (
            "vehicle.wheel.radios=3",
            "unknown key `vehicle.wheel.radios` in --set",
            "did you mean `vehicle.wheel.radius`?",
        ),
        (
            "vehicle.wheel.side=3",
            "unknown key `vehicle.wheel.side` in --set",
            "`side` belongs to `vehicle.wheel.kind` `square`, and the kind is `round` (default)",
        ),
        (
            "vehicle={kind: sledge, wheel: {side: 3}}",
            "unknown key `vehicle.wheel.side` in --set",
            "`wheel` belongs to `vehicle.kind` `cart`, and the kind is `sledge` (--set)",
        ),
        (
            "only.carts=[{kind: cart, wheel: {kind: square, radius: 1}}]",
            "unknown key `only.carts.cart.wheel.radius` in --set",
            "`radius` belongs to `only.carts.cart.wheel.kind` `round`, and the kind is `square`",
        ),
    ],
)
def test_an_error_names_the_key_and_the_place(setting: str, said: str, hint: str | None) -> None:
    what, found = refused(sets=(setting,))

    assert what.startswith(said)
    assert (found or "").startswith(hint or "")
    assert bool(found) == bool(hint)


def test_keys_are_those_of_the_kind_that_is_written() -> None:
    tree = as_tree({"vehicle": {"kind": "sledge", "carts": [{"wheel": {"kind": "square"}}]}}, "x")
    assert isinstance(tree, dict)

    keys = {key for key, _ in known_keys(tree, Yard)}

    assert {"vehicle.runners", "vehicle.carts.0.wheel.side", "only.runners", "name"} <= keys
    assert not {"vehicle.load", "vehicle.carts.0.wheel.radius"} & keys
    assert list(unknown_keys(tree, Yard)) == []
    assert {"vehicle.wheel.radius", "vehicle.load"} <= {key for key, _ in known_keys({}, Yard)}


# what is written out reads back


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("vehicle.wheel={kind: oval, length: 3}",),
        ("vehicle={kind: sledge, carts: [{wheel: {kind: square}, load: 2}]}", "only.runners=9"),
    ],
)
def test_a_dump_reads_back_the_same(sets: tuple[str, ...]) -> None:
    yard, origins = made(sets=sets)

    plain = yaml.safe_load(dump_config(yard))
    lines = dump_config(yard, origins).splitlines()

    assert made(plain)[0] == made(config_to_dict(yard))[0] == yard
    assert [line for line in lines if "#" not in line and not line.endswith(":")] == []


def test_the_page_has_a_table_for_each_kind() -> None:
    page = reference_page(Yard)
    titles = [line[3:] for line in page.splitlines() if line.startswith("## ")]

    assert titles[:5] == [
        "The preset itself",
        "`vehicle` of kind `cart`, the default",
        "`vehicle.wheel` of kind `round`, the default",
        "`vehicle.wheel` of kind `square`",
        "`vehicle.wheel` of kind `oval`",
    ]
    assert titles[-3:] == [
        "`only.carts.cart.wheel` of kind `oval`",
        "`only.carts.cart.spare.round`",
        "`only.carts.cart.spare.square`",
    ]
    assert "| `vehicle.wheel.side` | whole number, at least 1 | `4` | In metres. |" in page
    assert "| `vehicle.wheel.length` | whole number, at least 1 | – | In metres. |" in page


def test_the_json_schema_takes_differences_of_any_kind() -> None:
    schema = json_schema(Yard)
    wheel = schema["$defs"]["Cart"]["properties"]["wheel"]
    spare = schema["$defs"]["Cart"]["properties"]["spare"]

    assert [one["$ref"] for one in wheel["anyOf"]] == [
        f"#/$defs/{name}" for name in ("Round", "Square", "Oval")
    ]
    assert "oneOf" in spare["anyOf"][0]["items"]
    assert spare["anyOf"][1]["type"] == "object"
    assert schema["$defs"]["Square"]["properties"]["kind"]["const"] == "square"


# the shipped choices


def test_the_shipped_choices_have_their_defaults() -> None:
    config = load_config("coco-r50").config

    assert isinstance(config.model, TwoStage)
    assert (config.model.kind, config.model.backbone.kind, config.model.neck.kind) == (
        "two_stage",
        "resnet",
        "fpn",
    )
    assert load_config("coco-r50-c4").config.model.neck == NoNeck()


@pytest.mark.parametrize("value", [256, 64])
def test_an_older_dump_without_a_neck_still_has_channels(value: int, tmp_path: Path) -> None:
    values = config_to_dict(load_config("coco-r50-c4").config)
    del values["model"]["kind"], values["model"]["backbone"]["kind"]
    values["model"]["neck"] = {"kind": "none", "channels": value}
    (tmp_path / "old.yaml").write_text(json.dumps(values))

    expected = load_config("coco-r50-c4").config
    assert config_from_dict(values) == expected
    assert load_config(file=tmp_path / "old.yaml").config == expected
    assert values["model"]["neck"]["channels"] == value  # the input stays as it was


def test_channels_set_without_a_neck_are_an_error() -> None:
    for setting in ("model.neck.channels=64", "model.neck={kind: none, channels: 64}"):
        with pytest.raises(ConfigError, match=r"unknown key `model\.neck\.channels` in ") as caught:
            load_config("coco-r50-c4", overrides=[setting])

        assert caught.value.hint is not None
        assert caught.value.hint.startswith(
            "`channels` belongs to `model.neck.kind` `fpn` or `dilated` or `pafpn`, "
            "and the kind is `none` ("
        )


OLD_SMALL = {
    "name": "small",
    "model": {
        "backbone": {
            "name": "resnet18",
            "weights": "none",
            "norm": "gn",
            "frozen_stages": 0,
            "stride_in_1x1": False,
            "bn_epsilon": 1e-05,
        },
        "neck": {"kind": "fpn", "channels": 128},
    },
}
"""As 649c065 wrote it: neither `model` nor `model.backbone` has a kind."""


def test_what_649c065_wrote_means_what_it_meant() -> None:
    model = config_from_dict(OLD_SMALL).model

    assert model.backbone == load_config("small").config.model.backbone
    assert model.neck == load_config("small").config.model.neck


def test_every_preset_as_649c065_dumped_it_loads_equal() -> None:
    for name in ("coco-r50-ext", "coco-r101-c4", "custom", "small", "voc07-r50-fc"):
        config = load_config(name).config
        old = config_to_dict(config)
        old["model"].pop("kind")
        old["model"]["backbone"].pop("kind")
        old["model"]["neck"].setdefault("channels", 256)

        assert config_from_dict(old) == config, name


# a kind that is added at run time


class Toy(Section):
    """A toy detector."""

    kind: Literal["toy"] = "toy"
    """toy"""
    backbone: Annotated[Backbone, ByKind("resnet")] = ResNet()
    neck: Annotated[Neck, ByKind("fpn")] = NoNeck()
    width: AtLeastOne = 8
    """Its width."""


@pytest.fixture
def toy() -> Iterator[None]:
    with widened(Config, "model", Toy):
        yield


@pytest.mark.usefixtures("toy")
def test_an_added_kind_of_model_is_as_good_as_a_shipped_one() -> None:
    sets = ["model.kind=toy", "model.width=3", "model.backbone.name=resnet18"]
    resolved = load_config("coco-r50-c4", overrides=sets)
    model: Any = resolved.config.model

    assert model == Toy(width=3, backbone=ResNet(name="resnet18"))
    assert resolved.origins["model.kind"] == resolved.origins["model.width"] == "--set"
    assert resolved.origins["model.backbone.norm"] == "default"  # the preset's was another kind's
    assert config_from_dict(config_to_dict(resolved.config)) == resolved.config
    assert config_from_dict(yaml.safe_load(dump_config(resolved.config))) == resolved.config
    assert "## `model` of kind `toy`" in reference_page()
    refs = [one["$ref"] for one in json_schema()["properties"]["model"]["anyOf"]]
    kinds = ("TwoStage", "TorchVision", "Queries", "Detr", "Dense", "Toy")
    assert refs == [f"#/$defs/{one}" for one in kinds]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("setting", "said", "hint"),
    [
        ("model.widht=3", "unknown key `model.widht` in --set", "did you mean `model.width`?"),
        ("model.width=0", "`model.width` must be at least 1, got 0 (--set)", None),
        (
            "model.head.samples=3",
            "unknown key `model.head.samples` in --set",
            "`head` belongs to `model.kind` `two_stage` or `queries` or `detr` or `dense`, "
            "and the kind is `toy` (--set)",
        ),
    ],
)
def test_an_added_kind_is_explained_as_a_shipped_one(
    setting: str, said: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("coco-r50", overrides=["model.kind=toy", setting])

    assert (str(caught.value), caught.value.hint) == (said, hint)


def test_an_added_kind_is_gone_afterwards() -> None:
    page, schema = reference_page(), json_schema()
    with widened(Config, "model", Toy), widened(TwoStage, "backbone", Round):
        assert (
            load_config("coco-r50", overrides=["model.kind=toy"]).config.model.kind != "two_stage"
        )
        deep = load_config("coco-r50", overrides=["model.backbone.kind=round"])
        assert deep.config.model.backbone == Round()  # type: ignore[comparison-overlap]

    with pytest.raises(ConfigError, match=r"`model\.kind` must be `two_stage`, `torch.*got toy"):
        load_config("coco-r50", overrides=["model.kind=toy"])
    assert (reference_page(), json_schema()) == (page, schema)
