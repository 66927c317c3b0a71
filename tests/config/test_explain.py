from __future__ import annotations

import pytest

from dhcli.config.load import load_config
from dhcli.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.lr=-1", "`train.lr` must lie above 0, got -1 (--set)"),
        ("train.lr=abc", "`train.lr` must be a number, got abc (--set)"),
        ("train.lr='1'", "`train.lr` must be a number, got '1' (--set)"),
        ("train.lr=.inf", "`train.lr` must be a finite number, got .inf (--set)"),
        ("train.batch_size=1.5", "`train.batch_size` must be a whole number, got 1.5 (--set)"),
        ("train.batch_size=true", "`train.batch_size` must be a whole number, got true (--set)"),
        ("train.batch_size=0", "`train.batch_size` must be at least 1, got 0 (--set)"),
        ("train.batch_size=aut", "`train.batch_size` must be a number or `auto`, got aut (--set)"),
        ("train.momentum=1", "`train.momentum` must lie in [0, 1), got 1 (--set)"),
        (
            "model.anchors.ratios=[]",
            "`model.anchors.ratios` is too short: at least 1 needed (--set)",
        ),
        ("model.anchors.sizes=[]", "`model.anchors.sizes` is too short: at least 1 needed (--set)"),
        ("train.ema=1", "`train.ema` must lie in [0, 1), got 1 (--set)"),
        ("train.scale_lr=no", "`train.scale_lr` must be true or false, got 'no' (--set)"),
        ("train.scale_lr=1", "`train.scale_lr` must be true or false, got 1 (--set)"),
        ("train=3", "`train` must hold `key: value` lines, got 3 (--set)"),
        ("data.train=2007", "`data.train` must be text, got 2007 (--set)"),
        ("data.classes=car", "`data.classes` must be a list, got car (--set)"),
        (
            "model.anchors.sizes=aut",
            "`model.anchors.sizes` must be a list or `auto`, got aut (--set)",
        ),
        ("model.anchors.sizes=[9, x]", "`model.anchors.sizes.1` must be a number, got x (--set)"),
        ("data.classes=[]", "`data.classes` is too short: at least 1 needed (--set)"),
        ("data.classes=[a, b, b]", "`data.classes`: `b` is named twice (--set)"),
        ("data.classes=[a, 5]", "`data.classes.1` must be text, got 5 (--set)"),
        ("finetune.aliases=3", "`finetune.aliases` must be a mapping, got 3 (--set)"),
        ("input.std=[1, 2, 0]", "`input.std.2` must lie above 0, got 0 (--set)"),
        ("input.std=[1, 2]", "`input.std.2` is missing (--set)"),
        ("input.std=[1, 2, 3, 4]", "`input.std` is too long: at most 3 allowed (--set)"),
        (
            "input.mean=[{}]",
            "`input.mean.0` must be a number, got {}\n"
            "       `input.mean.1` is missing\n"
            "       `input.mean.2` is missing",
        ),
        (
            "model.head.cascade=[{bucket_scale: 1, box_std: [{x: 1}, {}, {}]}]",
            "`model.head.cascade.0.box_std.0` must be a number, got {x: 1} (--set)\n"
            "       `model.head.cascade.0.box_std.1` must be a number, got {}\n"
            "       `model.head.cascade.0.box_std.2` must be a number, got {}\n"
            "       `model.head.cascade.0.box_std.3` is missing",
        ),
        ("model.head.branches=[]", "`model.head.branches` is too short: at least 1 needed (--set)"),
        (
            "model.head.branches=[{kind: fx}]",
            "`model.head.branches.fx` must have as `kind` one of `fc`, `conv`, `side`, `res5`, got "
            "{kind: fx} (--set)",
        ),
        ("model.head.branches=[{name: a}]", "`model.head.branches.a` must say its `kind` (--set)"),
        (
            "model.head.branches.fc.lambda=2.0",
            "`model.head.branches.fc.lambda` must lie in [0, 1], got 2.0 (--set)",
        ),
        (
            "model.head.branches.conv.width=6",
            "`model.head.branches.conv.width` must be a multiple of 4, got 6 (--set)",
        ),
        (
            "model.head.branches.conv.non_local=3",
            "`model.head.branches.conv`: 3 non-local blocks need as many bottlenecks after the "
            "first block, but there are 2 (--set, preset coco-r50)",
        ),
        ("train.optimizer=sgdd", "`train.optimizer` must be `sgd` or `adamw`, got sgdd (--set)"),
    ],
)
def test_a_bad_value_is_explained_in_one_line(override: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("coco-r50", overrides=[override])

    assert str(caught.value) == what


@pytest.mark.parametrize(
    ("preset", "key", "norms"),
    [
        ("coco-r50", "model.backbone", "frozen_bn eval_bn gn"),
        ("coco-r50-fcos", "model.head", "none gn"),
        ("coco-yolox-tiny", "model.backbone", "frozen_bn eval_bn"),
    ],
)
def test_batch_norm_that_is_trained_needs_an_epsilon(preset: str, key: str, norms: str) -> None:
    zero = f"{key}.bn_epsilon=0"
    for norm in norms.split():
        load_config(preset, overrides=[zero, f"{key}.norm={norm}"])

    with pytest.raises(ConfigError, match=f"^`{key}`: `bn_epsilon` must lie above 0 with `norm"):
        load_config(preset, overrides=[zero, f"{key}.norm=bn"])


def test_yolox_neck_needs_an_epsilon() -> None:
    with pytest.raises(ConfigError, match=r"`model\.neck\.bn_epsilon` must lie above 0, got 0"):
        load_config("coco-yolox-tiny", overrides=["model.neck.bn_epsilon=0"])


def test_what_is_wrong_with_the_tree_as_a_whole_names_no_key() -> None:
    with pytest.raises(ConfigError, match=r"^`augment\.mosaic` needs `input\.letterbox`"):
        load_config("coco-yolox-tiny", overrides=["input.letterbox=null"])


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.optimizer=sgdd", "did you mean `sgd`?"),
        ("data.others=Ignore", "did you mean `ignore`?"),
        ("data.classes=[5]", "needs quotes"),
        ("train.lr='1'", "without quotes"),
        ("train.lr=abc", None),
        ("train.lr=-1", None),
    ],
)
def test_a_hint_says_what_to_write(override: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("coco-r50", overrides=[override])

    assert caught.value.hint == hint or (hint and hint in (caught.value.hint or ""))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("optim.lrr", "did you mean `train.lr`?"),
        ("lr", "did you mean `train.lr`?"),
        ("train.warmup", "did you mean `train.schedule.warmup`?"),
        ("train.lr.x", "did you mean `train.lr`?"),
        ("epochs", "did you mean `train.epochs`?"),
        ("model.rpn.nms_thresh", "did you mean `model.rpn.nms_threshold`?"),
        ("model.head.branches.conv.lambda_", "did you mean `model.head.branches.conv.lambda`?"),
        (
            "omega",
            "did you mean `model.head.branches.fc.omega` or `model.head.branches.conv.omega`?",
        ),
        ("zzz", "`dh presets show custom` prints every key"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("coco-r50", overrides=[f"{key}=1"])

    assert str(caught.value) == f"unknown key `{key}` in --set"
    assert caught.value.hint == hint


def test_names_come_first_then_types_then_ranges() -> None:
    overrides = ["train.lr=-1", "train.seed=x", "train.optimiser=sgd"]

    with pytest.raises(ConfigError) as name:
        load_config("coco-r50", overrides=overrides)
    with pytest.raises(ConfigError) as rest:
        load_config("coco-r50", overrides=overrides[:2])

    assert str(name.value) == "unknown key `train.optimiser` in --set"
    assert str(rest.value).splitlines() == [
        "`train.seed` must be a whole number, got x (--set)",
        "       `train.lr` must lie above 0, got -1 (--set)",
    ]


def test_an_empty_unknown_section_is_an_error_too() -> None:
    with pytest.raises(ConfigError, match=r"`data\.x` is not a known key"):
        load_config("coco-r50", overrides=["data={x: {}}"])
