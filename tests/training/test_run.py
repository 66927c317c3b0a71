from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from dhcli.cli.train import ResumeRun
from dhcli.config.load import config_from_dict, load_config
from dhcli.config.schema import Config
from dhcli.data.table import DetectionTable
from dhcli.errors import ConfigError, DataError, DhError, ModelError
from dhcli.runtime.team import Team
from dhcli.training.finetune import finetune
from dhcli.training.inherit import inherited_settings, require_same_network
from dhcli.training.journal import Journal
from dhcli.training.loop import TrainingResult
from dhcli.training.resume import KEPT_ON_RESUME, resume
from dhcli.training.run import Session, train
from dhcli.training.run_folder import RunFolder
from dhcli.weights.model_file import ModelFile, read_model, save_model
from tests.threads import together

CPU = torch.device("cpu")


@pytest.fixture
def small_config() -> Callable[..., Config]:
    """A Double-Head on ResNet-18 that is small enough for a test; settings as for `--set`."""

    def make(*overrides: str) -> Config:
        settings = [
            *("data.train=pictures", "data.val_fraction=0.3"),
            *(
                "input.min_size=64",
                "input.max_size=64",
                "model.neck.channels=16",
                "augment.colour=0",
            ),
            *("model.head.branches.fc.width=16", "model.head.branches.conv.width=16"),
            *("model.head.samples=16", "model.rpn.proposals_test=20"),
            *("model.rpn.proposals_train=20", "model.rpn.samples=16"),
            *(
                "train.optimizer=sgd",
                "train.lr=0.01",
                "train.batch_size=2",
                "train.workers=0",
                "train.log_every=1",
            ),
            *("train.schedule.length=1", "train.schedule.steps=[1]", "train.schedule.warmup=0"),
        ]
        return load_config("small", overrides=[*settings, *overrides]).config

    return make


@pytest.fixture
def session(tmp_path: Path, recorder: Any) -> Callable[..., Session]:
    def make(name: str = "run", command: str = "train") -> Session:
        journal = Journal(recorder)
        return Session(command, f"dh {command} …", {"dh": "0"}, CPU, journal, tmp_path / name)

    return make


@pytest.fixture
def whole(table: DetectionTable) -> DetectionTable:
    """The tiny table, of classes `dot` and `dash`."""
    return replace(
        table,
        classes=("dot", "dash"),
        labels=torch.tensor([0, 1, 0, 1, 0, 1, 0]).int().numpy(),
        category_ids=torch.tensor([7, 42]).numpy(),
    )


@pytest.fixture(autouse=True)
def _pictures(monkeypatch: pytest.MonkeyPatch, whole: DetectionTable, tmp_path: Path) -> None:
    """The dataset `pictures` is the whole table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    monkeypatch.setattr("dhcli.training.data.read_dataset", lambda path: whole)


def _stop_after(recorder: Any, iteration: int) -> None:
    def on_tick(_: int, done: int) -> None:
        if done == iteration:
            signal.raise_signal(signal.SIGINT)

    recorder.on_tick = on_tick


def test_run_folder_holds_everything(
    small_config: Any, session: Any, tmp_path: Path, recorder: Any
) -> None:
    outcome = train(small_config(), session())

    files = {file.name for file in outcome.run.path.iterdir()}
    assert files >= {
        *("config.yaml", "command.txt", "env.json", "events.jsonl", "metrics.csv"),
        *("train.log", "last.safetensors", "checkpoint.pt"),
    }
    assert not {name for name in files if name.startswith(".")}
    assert json.loads((tmp_path / "run/env.json").read_text())["device"] == "cpu"
    model = read_model(outcome.run.path / "last.safetensors")
    assert (model.classes, model.category_ids) == (("dot", "dash"), (7, 42))
    assert set(recorder.intervals[0].losses) == {
        *("loss_rpn_cls", "loss_rpn_reg", "loss_fc_cls", "loss_fc_reg"),
        *("loss_conv_cls", "loss_conv_reg", "loss"),
    }
    log = (outcome.run.path / "train.log").read_text()
    assert "epoch [1][3/3]" in log
    assert "learning rate" in log


def test_configuration_of_the_run_repeats_it(small_config: Any, session: Any) -> None:
    config = small_config()
    outcome = train(config, session())

    again = load_config(file=outcome.run.path / "config.yaml").config

    assert again.train == config.train
    assert again.model == config.model
    assert Path(again.data.train) == Path.cwd() / "pictures"


AUTO = ("model.head.scores=auto", "model.head.boxes=auto")
HEADS = {
    "double-head": (),
    "sabl": (
        "model.head.branches=[{kind: fc, width: 16, layers: 1}, {kind: side, width: 16}]",
        *AUTO,
    ),
    "iou": (
        "model.head.branches=[{kind: fc, width: 16, omega: 2, lambda: 0.5},"
        " {kind: fc, name: iou, focus: iou, width: 16}]",
        *("model.head.jitter.samples=20", "model.detect.nms.kind=guided"),
        *AUTO,
    ),
}


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(sets, id=name, marks=() if name == "double-head" else pytest.mark.slow)
        for name, sets in HEADS.items()
    ],
)
def test_real_detector_resumes_to_the_bit(
    head: tuple[str, ...], small_config: Any, session: Any, recorder: Any
) -> None:
    config = small_config("train.ema=0.9", "train.schedule.length=2", *head)
    straight = train(config, session("straight"))

    _stop_after(recorder, 2)
    stopped = train(config, session("stopped"))
    recorder.on_tick = lambda *_: None
    written = load_config(file=stopped.run.path / "config.yaml").config
    resumed = resume(stopped.run.path, written, session("stopped"))

    assert (stopped.status, resumed.status) == ("interrupted", "finished")
    states = [
        torch.load(outcome.run.path / "checkpoint.pt", weights_only=True)
        for outcome in (straight, resumed)
    ]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
    rows = [(outcome.run.path / "metrics.csv").read_text() for outcome in (straight, resumed)]
    assert rows[0] == rows[1]
    assert any("resumed after iteration 2 of epoch 1" in line for line in recorder.lines)


def test_a_damaged_state_is_said_and_the_run_resumes_from_the_one_before(
    small_config: Any, session: Any, recorder: Any
) -> None:
    config = small_config("train.schedule.length=2")
    run = train(config, session()).run.path
    straight = read_model(run / "last.safetensors").state
    checkpoint = run / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])

    resumed = resume(run, load_config(file=run / "config.yaml").config, session())

    [line] = [line for line in recorder.warnings if "checkpoint.pt" in line]
    assert line.endswith("; resumes from the state saved before it, checkpoint-previous.pt")
    assert line in (run / "train.log").read_text()
    model = read_model(run / "last.safetensors").state
    assert resumed.status == "finished"
    assert all(torch.equal(value, straight[name]) for name, value in model.items())


def test_rare_classes_are_said_and_their_images_repeated(
    small_config: Any, session: Any, recorder: Any, whole: DetectionTable
) -> None:
    usual = train(small_config(), session("usual"))
    rare = train(small_config("train.repeat_below=1"), session("rare"))

    lines = [line for line in recorder.lines if line.startswith("rare classes: ")]
    assert len(lines) == 1
    assert "an epoch has" in lines[0]
    assert rare.position.history[0]["iteration"] > usual.position.history[0]["iteration"]


def test_anchors_from_the_data_are_said_and_stored(
    small_config: Any, session: Any, recorder: Any
) -> None:
    _stop_after(recorder, 1)
    stopped = train(small_config("model.anchors.sizes=auto"), session())
    recorder.on_tick = lambda *_: None

    [line] = [line for line in recorder.lines if line.startswith("anchor sizes from the data: ")]
    written = load_config(file=stopped.run.path / "config.yaml").config
    # boxes of 16 × 16 pixels of images of 32 × 32, resized to 64 × 64
    assert 32 in written.model.anchors.sizes
    assert line.startswith(
        f"anchor sizes from the data: {', '.join(f'{s:g}' for s in written.model.anchors.sizes)} ("
    )
    model = read_model(stopped.run.path / "last.safetensors")
    assert model.config.model.anchors == written.model.anchors
    assert resume(stopped.run.path, written, session()).status == "finished"
    auto = load_config(
        file=stopped.run.path / "config.yaml", overrides=["model.anchors.sizes=auto"]
    )
    with pytest.raises(ConfigError, match="`model` cannot change when a run is resumed"):
        resume(stopped.run.path, auto.config, session())


def test_anchors_from_the_data_stand_above_those_of_the_weights(
    small_config: Any, session: Any, recorder: Any, stopped: TrainingResult
) -> None:
    weights = stopped.run.path / "last.safetensors"
    source = read_model(weights)
    config = small_config("model.anchors.sizes=auto")
    require_same_network(config, source)

    train(config, session("again"), source, weights)
    finetune(config, session("tuned"), source, weights)

    said = [line for line in recorder.lines if "model.anchors.sizes [" in line]
    assert len(said) == 2
    assert all("(was [16.0, 32.0, 64.0, 128.0, 256.0])" in line for line in said)


@pytest.fixture
def stopped(small_config: Any, session: Any, recorder: Any) -> TrainingResult:
    """A run that was interrupted after its first iteration."""
    _stop_after(recorder, 1)
    outcome = train(small_config(), session())
    recorder.on_tick = lambda *_: None
    return outcome


def test_resuming_refuses_what_cannot_change(stopped: TrainingResult, session: Any) -> None:
    path = stopped.run.path

    for override, named in (
        ("train.batch_size=4", "train.batch_size"),
        ("train.seed=1", "train.seed"),
        ("train.spare_norms=true", "train.spare_norms"),
        ("model.head.samples=8", "model"),
        ("augment.flip=0", "augment"),
    ):
        config = load_config(file=path / "config.yaml", overrides=[override]).config
        with pytest.raises(ConfigError, match=f"`{named}` cannot change"):
            resume(path, config, session())


def test_help_names_every_setting_of_train_that_cannot_change() -> None:
    said = get_args(ResumeRun)[1].help

    assert all(name in said for name in KEPT_ON_RESUME)
    listed = said[said.index("but not ") :]
    assert listed.count(", ") + listed.count(" or ") == len(KEPT_ON_RESUME) - 1


def test_resuming_a_finished_run_says_how_to_train_longer(
    stopped: TrainingResult, session: Any
) -> None:
    path = stopped.run.path
    resume(path, load_config(file=path / "config.yaml").config, session())

    with pytest.raises(ConfigError, match="is finished: 1 of 1 epoch") as caught:
        resume(path, load_config(file=path / "config.yaml").config, session())
    longer = load_config(file=path / "config.yaml", overrides=["train.schedule.length=2"]).config
    outcome = resume(path, longer, session())

    assert "`--epochs N`" in str(caught.value.hint)
    assert outcome.position.epoch == 2
    assert load_config(file=path / "config.yaml").config.train.schedule.length == 2


def test_resuming_on_other_data_is_refused(
    stopped: TrainingResult, session: Any, monkeypatch: pytest.MonkeyPatch, table: DetectionTable
) -> None:
    monkeypatch.setattr("dhcli.training.data.read_dataset", lambda path: table)
    config = load_config(file=stopped.run.path / "config.yaml").config

    with pytest.raises(DataError, match=r"classes .'dot', 'dash'. → .'dot'."):
        resume(stopped.run.path, config, session())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [1, 0, 1, 0, 1, 0, 1]}, "boxes or labels of the training images"),
        ({"flags": np.full(7, 4, np.uint8)}, "boxes or labels of the training images"),
        ({"boxes": np.tile([4.0, 4.0, 20.0, 21.0], (7, 1))}, "boxes or labels of the training"),
        ({"sizes": np.full((7, 2), 31, np.int32)}, "sizes of the training images, sizes of the va"),
    ],
)
def test_data_that_was_edited_is_noticed(
    change: dict[str, Any],
    said: str,
    stopped: TrainingResult,
    session: Any,
    monkeypatch: pytest.MonkeyPatch,
    whole: DetectionTable,
) -> None:
    change = {name: np.asarray(value, getattr(whole, name).dtype) for name, value in change.items()}
    edited = replace(whole, **change)
    monkeypatch.setattr("dhcli.training.data.read_dataset", lambda path: edited)
    monkeypatch.setattr(
        "dhcli.training.data.mend_for_training", lambda table, *_, **__: (table, [])
    )
    config = load_config(file=stopped.run.path / "config.yaml").config

    with pytest.raises(DataError, match="is not the data that the run started with") as caught:
        resume(stopped.run.path, config, session())

    assert said in caught.value.what
    assert "dh train --weights" in str(caught.value.hint)


def test_resuming_goes_on_with_the_same_data_elsewhere(
    stopped: TrainingResult,
    session: Any,
    monkeypatch: pytest.MonkeyPatch,
    whole: DetectionTable,
    tmp_path: Path,
) -> None:
    path = stopped.run.path
    (tmp_path / "pictures").rmdir()
    (tmp_path / "images").rename(tmp_path / "mounted")
    moved = replace(whole, root=tmp_path / "mounted")
    monkeypatch.setattr("dhcli.training.data.read_dataset", lambda path: moved)
    config = load_config(file=path / "config.yaml").config

    with pytest.raises(DataError, match="the run's data is missing") as caught:
        resume(path, config, session())
    place = [f"data.train={tmp_path / 'mounted'}"]
    outcome = resume(
        path, load_config(file=path / "config.yaml", overrides=place).config, session()
    )

    assert "--data PATH" in str(caught.value.hint)
    assert outcome.status == "finished"
    written = load_config(file=path / "config.yaml").config
    assert written.data.train == str(tmp_path / "mounted")


def test_resuming_without_a_checkpoint(tmp_path: Path, small_config: Any, session: Any) -> None:
    with pytest.raises(ModelError, match="no such checkpoint") as caught:
        resume(tmp_path, small_config(), session())

    assert "command.txt" in str(caught.value.hint)


def test_full_disk_is_said_before_training(
    small_config: Any, session: Any, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    usage = type("usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    with pytest.raises(DhError, match="1 MB are free"):
        train(small_config(), session())

    assert not recorder.intervals


def test_error_is_in_the_log_and_the_way_on_is_said(
    stopped: TrainingResult, session: Any, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    def refuse(self: RunFolder, rows: Any) -> None:
        raise DhError("cannot be written: No space left on device", where="metrics.csv")

    monkeypatch.setattr(RunFolder, "write_metrics", refuse)
    path = stopped.run.path

    with pytest.raises(DhError, match="No space left"):
        resume(path, load_config(file=path / "config.yaml").config, session())

    assert f"dh train --resume {path}" in recorder.lines[-1]
    assert "error: metrics.csv: cannot be written" in (path / "train.log").read_text()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_lack_of_memory_on_a_cpu_is_an_error_that_says_what_to_do(
    stopped: TrainingResult,
    session: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("dhcli.training.step.Updater.update", fail)
    path = stopped.run.path

    with pytest.raises(DhError, match="cpu has too little memory for 2 images") as caught:
        resume(path, load_config(file=path / "config.yaml").config, session())

    assert "halve `train.batch_size`" in str(caught.value.hint)
    assert "error: cpu has too little memory" in (path / "train.log").read_text()


def _model_of(outcome: TrainingResult) -> ModelFile:
    return read_model(outcome.run.path / "last.safetensors")


def test_training_starts_from_a_model_of_the_same_classes(
    stopped: TrainingResult, small_config: Any, session: Any, tmp_path: Path, recorder: Any
) -> None:
    model = _model_of(stopped)
    order = torch.tensor([0, 2, 1])
    permuted = model.state | {
        "head.branches.fc.cls.weight": model.state["head.branches.fc.cls.weight"][order]
    }
    other = ModelFile(model.config, ("dash", "dot"), (1, 2), permuted)
    save_model(tmp_path / "other.safetensors", other)
    config = small_config("train.lr=1e-30", "train.weight_decay=0")

    outcome = train(config, session("next"), other, tmp_path / "other.safetensors")

    name = "head.branches.fc.cls.weight"
    assert torch.equal(_model_of(outcome).state[name], permuted[name])
    assert _model_of(outcome).classes == ("dash", "dot")  # the weights' order stays
    again = load_config(file=outcome.run.path / "config.yaml").config
    assert again.data.classes == ("dash", "dot")
    assert any("other.safetensors" in line for line in recorder.lines)


def test_training_says_which_predictors_start_at_random(
    stopped: TrainingResult, small_config: Any, session: Any, recorder: Any
) -> None:
    config = small_config("model.head.class_agnostic=true")

    train(config, session("next"), _model_of(stopped), stopped.run.path / "last.safetensors")

    [said] = [line for line in recorder.lines if line.startswith("new, because the weights have")]
    assert "head.branches.conv.reg.weight" in said
    assert "cls" not in said


def test_training_refuses_a_model_of_other_classes(
    stopped: TrainingResult, small_config: Any, session: Any, tmp_path: Path
) -> None:
    model = _model_of(stopped)
    other = ModelFile(model.config, ("cat", "dog"), (1, 2), model.state)
    save_model(tmp_path / "other.safetensors", other)

    with pytest.raises(
        ConfigError, match=r"other classes \(cat, dog\) than the data has \(dot, dash\)"
    ) as caught:
        train(small_config(), session("next"), other, tmp_path / "other.safetensors")

    assert "dh finetune" in str(caught.value.hint)


def test_finetuning_keeps_rows_with_their_classes(
    stopped: TrainingResult, small_config: Any, session: Any, tmp_path: Path, recorder: Any
) -> None:
    model = _model_of(stopped)
    source = ModelFile(model.config, ("DASH", "point"), (1, 2), model.state)
    config = small_config("train.lr=1e-30", "train.weight_decay=0", "finetune.aliases.dot=point")

    outcome = finetune(config, session("tuned", "finetune"), source, tmp_path / "source")

    before, after = model.state, _model_of(outcome).state
    for branch in ("fc", "conv"):
        cls, reg = (f"head.branches.{branch}.{task}.weight" for task in ("cls", "reg"))
        assert torch.equal(after[cls], before[cls][[0, 2, 1]])  # background, point, DASH
        assert torch.equal(after[reg], before[reg][[4, 5, 6, 7, 0, 1, 2, 3]])
    assert torch.equal(after["backbone.conv1.weight"], before["backbone.conv1.weight"])
    shown = [line.split() for line in recorder.lines]
    assert ["dot", "point", "alias"] in shown
    assert ["dash", "DASH", "alike"] in shown
    assert outcome.run.path.name == "tuned"


def test_architecture_and_pixels_come_from_the_weights_and_set_stands_above() -> None:
    source = config_from_dict(
        {
            "input": {"min_size": 64, "max_size": 64, "channels": "bgr", "std": [1, 1, 1]},
            "model": {"backbone": {"name": "resnet18", "frozen_stages": 0}},
            "augment": {"min_sizes": [48], "flip": 0.125},
            "train": {"lr": 7.0},
        }
    )

    config = load_config(
        "finetune",
        overrides=["model.backbone.frozen_stages=5"],
        weights=inherited_settings(source),
    ).config

    alone = load_config("finetune").config
    assert config.model.backbone.name == "resnet18"
    assert config.model.backbone.frozen_stages == 5
    assert config.model.head == source.model.head
    assert (config.input.channels, config.input.std) == ("bgr", (1, 1, 1))
    assert config.input == source.input
    assert (config.augment.min_sizes, config.augment.flip) == ((48,), alone.augment.flip)
    assert config.train == alone.train


def test_what_a_user_writes_stands_above_the_weights_and_is_said(
    stopped: TrainingResult, session: Any, tmp_path: Path, recorder: Any
) -> None:
    source = _model_of(stopped)
    file = tmp_path / "mine.yaml"
    file.write_text("input: {divisor: 64}\nmodel: {anchors: {ratios: [0.5, 1.0, 3.0]}}\n", "utf-8")
    settings = ["data.train=pictures", "train.workers=0", "train.schedule.length=1"]
    sizes = ["input.min_size=96", "input.max_size=96"]
    weights = inherited_settings(source.config)

    kept = load_config("finetune", overrides=settings, weights=weights).config
    own = load_config("finetune", file=file, overrides=settings + sizes, weights=weights).config
    for number, config in enumerate((kept, own)):
        finetune(config, session(f"tuned{number}"), source, tmp_path / "source")

    assert kept.input == source.config.input
    assert "input size: 64, max 64 (as the weights were trained)" in recorder.lines
    assert "input size: 96, max 96 (weights were trained at 64, max 64)" in recorder.lines
    [changed] = [line for line in recorder.lines if line.startswith("different from how")]
    assert "input.divisor 64 (was 32)" in changed
    assert "model.anchors.ratios [0.5, 1.0, 3.0] (was [0.5, 1.0, 2.0])" in changed


def test_weights_of_another_network_than_the_preset_are_refused(stopped: TrainingResult) -> None:
    source = _model_of(stopped)

    require_same_network(source.config, source)
    with pytest.raises(ModelError, match="the weights belong to another network"):
        require_same_network(load_config("small").config, source)


def test_frozen_stages_do_not_move(
    stopped: TrainingResult, small_config: Any, session: Any, tmp_path: Path
) -> None:
    config = small_config("model.backbone.frozen_stages=5")

    outcome = finetune(config, session("tuned"), _model_of(stopped), stopped.run.path)

    before, after = _model_of(stopped).state, _model_of(outcome).state
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"neck", "rpn", "head"}


def test_a_team_reads_decodes_and_writes_once(
    small_config: Callable[..., Config],
    session: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    def counted(place: str) -> None:
        name = place.rsplit(".", 1)[1]
        call = import_module(place.rsplit(".", 1)[0]).__dict__[name]

        def watched(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return call(*given, **named)

        monkeypatch.setattr(place, watched)

    for name in ("run.load_data", "run.load_backbone", "decoded.decode_to_file", "run.make_run"):
        counted(f"dhcli.training.{name}")
    config = small_config("train.cache=disk", "train.accumulate=2")

    def work(team: Team) -> Any:
        own = session()
        result = train(config, replace(own, team=team, journal=Journal(own.journal.display, team)))
        return result.run.path, result.position.history

    (path, history), other = together(2, work)  # type: ignore[misc]

    assert str((path, history)) == str(other)  # NaN is not itself
    once = ["load_backbone", "load_data", "make_run"]
    assert sorted(calls) == ["decode_to_file"] * 2 + once  # of two datasets
    said = (path / "train.log").read_text()
    assert "4 images per step: 2 images at a time, in 2 processes" in said
