"""`dh train` and `dh finetune` as people and programs see them."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.cli.finetune import aliases_of
from dhcli.cli.options import number_or_auto
from dhcli.cli.reference import options_of
from dhcli.cli.train import train as train_command
from dhcli.config.load import config_to_dict, load_config
from dhcli.config.schema import Train
from dhcli.config.short import SHORT
from dhcli.errors import ConfigError
from dhcli.training.resume import KEPT_ON_RESUME
from dhcli.weights.model_file import ModelFile, save_model

pytestmark = pytest.mark.usefixtures("shallow")

Invoke = Callable[..., Any]

SMALL = [
    *("input.min_size=64", "input.max_size=64", "model.neck.channels=16", "augment.colour=0"),
    *("model.head.branches.fc.width=16", "model.head.branches.conv.width=16"),
    *("model.head.samples=16", "model.rpn.proposals_test=20", "model.rpn.proposals_train=20"),
    *(
        "train.optimizer=sgd",
        "train.lr=0.01",
        "train.batch_size=2",
        "train.workers=0",
        "train.log_every=2",
        "data.val_fraction=0.3",
    ),
    *("train.schedule.length=2", "train.schedule.warmup=0"),
]
LINE = re.compile(
    r"epoch \[\d+\]\[\d+/\d+\] lr [\d.e-]+( loss_\w+: \d+\.\d{4})+ loss: \d+\.\d{4} \| "
    r"[\d.]+ img/s, data \d+ %, eta \d+:\d\d:\d\d"
)


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def train(photos: Path, tmp_path: Path) -> Invoke:
    """`dh train` on the photos with a small detector, into `run`."""

    def call(*options: object, settings: tuple[str, ...] = ()) -> Any:
        sets = [word for one in (*SMALL, *settings) for word in ("--set", one)]
        command = ["train", "--preset", "small", "--data", photos, "--out", tmp_path / "run"]
        return invoke(*command, "--device", "cpu", *sets, *options)

    return call


def test_images_that_do_not_fit_in_memory_are_one_clear_error(
    train: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dhcli.training.decoded.free_memory", lambda: 2_000)

    result = train("--cache", "ram")

    assert result.exit_code == 1
    assert "error: the decoded images need 0 MB, and 0 MB are free in the mem" in result.stderr
    assert "hint: `--cache disk` or `--cache none` trains the same" in result.stderr


def test_piped_output_is_whole_lines_and_a_table(train: Invoke, tmp_path: Path) -> None:
    result = train()

    assert result.exit_code == 0
    assert "\r" not in result.output
    assert "\x1b" not in result.output
    lines = [line for line in result.stderr.splitlines() if LINE.fullmatch(line)]
    assert [line.split(" lr ")[0] for line in lines] == [
        f"epoch [{epoch}][{iteration}/4]" for epoch in (1, 2) for iteration in (1, 2, 3, 4)
    ]
    assert "train_loss" in result.stdout
    assert "AP50 %" in result.stdout
    assert "learning rate" in result.stderr
    assert "next: dh predict --weights" in result.stderr.splitlines()[-1]
    assert (tmp_path / "run/best.safetensors").exists()


def test_json_is_one_document(train: Invoke, tmp_path: Path) -> None:
    result = train("--json")

    document = json.loads(result.stdout)
    assert document["status"] == "finished"
    assert document["run"] == str(tmp_path / "run")
    assert [row["epoch"] for row in document["history"]] == [1, 2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_says_how_to_go_on_and_that_works(
    number: int, code: int, train: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tick(self: object, epoch: int, iteration: int, length: int) -> None:
        if iteration == 3:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr("dhcli.report.training.LineDisplay.tick", tick)
        stopped = train()
    command = stopped.stderr.splitlines()[-1].partition("resume with: dh ")[2].split()
    resumed = invoke(*command, "--device", "cpu")

    assert stopped.exit_code == code
    assert command == ["train", "--resume", str(tmp_path / "run")]
    assert resumed.exit_code == 0
    assert "resumed after iteration 3 of epoch 1" in resumed.stderr


def test_finetune_copies_rows_by_alias_and_shows_the_table(
    train: Invoke, photos: Path, tmp_path: Path
) -> None:
    train(settings=("train.schedule.length=1",))
    (photos / "data.yaml").write_text("train: images\nnames: [tiger, dog]\n", "utf-8")
    sets = [w for one in SMALL if not one.startswith("model") for w in ("--set", one)]

    result = invoke(
        *("finetune", photos, "--weights", tmp_path / "run/last.safetensors"),
        *("--alias", "tiger=cat", "--out", tmp_path / "tuned", "--device", "cpu", *sets),
    )

    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stderr.splitlines()]
    assert ["tiger", "cat", "alias"] in rows
    assert ["dog", "dog", "exact"] in rows
    config = (tmp_path / "tuned/config.yaml").read_text("utf-8")
    assert "resnet18" in config
    assert "tiger" in config


def test_the_help_of_resume_names_every_setting_that_cannot_change() -> None:
    page = invoke("train", "--help").stdout.partition("--resume")[2].partition("--out")[0]
    words = re.findall(r"\w+", page)

    assert {name for name in Train.model_fields if name in words} == set(KEPT_ON_RESUME)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "no dataset is named"),
        (("--data", "nowhere"), 3, "nowhere"),
        (("--resume", "nowhere"), 2, "is not a run folder"),
        (("--resume", "r", "--out", "d", "--preset", "p"), 2, "--preset, --out cannot be used"),
        (("--set", "train.lrr=1"), 2, "did you mean `train.lr`"),
        (("--data", "x", "--device", "warp"), 2, "unknown device `warp`"),
    ],
)
def test_bad_command_lines_are_one_error(options: tuple[str, ...], code: int, said: str) -> None:
    result = invoke("train", *options)

    assert result.exit_code == code
    assert said in result.stderr
    assert result.stderr.startswith("error:")
    assert not result.stdout


def test_run_that_ended_before_it_trained_is_started_again(train: Invoke, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("train.log", "command.txt"):
        (tmp_path / "run" / name).touch()

    refused = invoke("train", "--resume", tmp_path / "run")

    assert refused.exit_code == 2
    assert "start it again" in refused.stderr
    assert train(settings=("train.schedule.length=1",)).exit_code == 0


def test_a_training_from_weights_keeps_what_they_were_trained_with(
    photos: Path,
    tmp_path: Path,
    small_model: Callable[..., ModelFile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file says what the network is, `--set` one side of an image, the weights the other."""
    weights, network = tmp_path / "start.safetensors", tmp_path / "network.yaml"
    model = small_model("cat", "dog")
    save_model(weights, model)
    network.write_text(json.dumps({"model": config_to_dict(model.config)["model"]}))
    started: list[Any] = []

    def start(*arguments: Any) -> None:
        started.extend(arguments)
        raise ConfigError("far enough")

    monkeypatch.setattr("dhcli.training.run.train", start)
    command = ["train", "--data", photos, "--config", network, "--weights", weights]
    result = invoke(*command, "--out", tmp_path / "run", "--set", "input.min_size=32")

    assert "far enough" in result.stderr
    config, _, source, path = started
    assert (path, source.classes) == (weights, ("cat", "dog"))
    assert (config.input.min_size, config.input.max_size) == (32, 96)


def test_taken_folder_is_refused(train: Invoke, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/precious").touch()

    result = train()

    assert result.exit_code == 1
    assert "already exists and is not empty" in result.stderr
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["precious"]


def test_frozen_random_weights_are_refused_with_the_way_out(train: Invoke) -> None:
    result = train(settings=("model.backbone.frozen_stages=2",))

    assert result.exit_code == 2
    assert "hint: `--freeze 0`" in result.stderr


def test_aliases_become_a_setting() -> None:
    aliases = aliases_of(["Cyclist = bicycle", "a.b=person"])

    assert aliases == {"Cyclist": "bicycle", "a.b": "person"}
    assert load_config(options={"--alias": aliases}).config.finetune.aliases == aliases
    with pytest.raises(ConfigError, match="`--alias Cyclist` is not of the form"):
        aliases_of(["Cyclist"])


@pytest.fixture
def short(photos: Path, tmp_path: Path) -> Invoke:
    """`dh train` or `dh finetune` on the photos with a small detector, without any `--set`."""
    path = tmp_path / "tiny.yaml"
    tree: dict[str, Any] = {"extends": "small"}
    for one in SMALL:
        key, _, value = one.partition("=")
        *above, last = key.split(".")
        below = tree
        for part in above:
            below = below.setdefault(part, {})
        below[last] = yaml.safe_load(value)
    path.write_text(yaml.safe_dump(tree), "utf-8")

    def call(command: str, *options: object) -> Any:
        data = [photos] if command == "finetune" else ["--data", photos]
        return invoke(command, *data, "--preset", path, "--device", "cpu", *options)

    return call


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_every_short_option_reaches_the_settings(
    command: str, tmp_path: Path, small_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "m.safetensors", small_model("cat"))
    seen: dict[str, Any] = {}

    def stop(*_: object, options: dict[str, Any], **__: object) -> None:
        seen.update(options)
        raise ConfigError("seen")

    monkeypatch.setattr(f"dhcli.cli.{command}.configure", stop)
    data = ["photos"] if command == "finetune" else ["--data", "photos"]
    given: dict[str, Any] = {
        **{"--val": "other", "--epochs": 3, "--batch-size": 4, "--lr": 0.5, "--image-size": 99},
        **{"--freeze": 0, "--seed": 0, "--workers": 0, "--cache": "ram"},
    }

    result = invoke(
        *(command, *data, "--weights", tmp_path / "m.safetensors"),
        *(word for pair in given.items() for word in pair),
    )

    assert "error: seen" in result.stderr
    assert seen == {"--data": "photos", **given}
    assert set(seen) == set(SHORT) - {"--alias"}


def test_short_options_train_as_they_say_and_are_kept(short: Invoke, tmp_path: Path) -> None:
    given = ("--epochs", 1, "--batch-size", 4, "--lr", 0.002, "--seed", 5, "--workers", 0)

    result = short("train", "--out", tmp_path / "run", "--image-size", 48, *given)

    assert result.exit_code == 0, result.stderr
    written = load_config(file=tmp_path / "run/config.yaml").config
    train = written.train
    assert (train.epochs, train.batch_size, train.seed, train.workers) == (1, 4, 5, 0)
    assert (written.input.min_size, written.input.max_size) == (48, 48)
    assert "learning rate 0.002, whatever the batch" in result.stderr
    assert "epoch [1][2/2] lr 0.002" in result.stderr


def test_resuming_takes_epochs_and_refuses_what_may_not_change(
    short: Invoke, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    short("train", "--out", run, "--epochs", 1)

    for option, named in (
        (("--batch-size", 3), "`train.batch_size`"),
        (("--seed", 3), "`train.seed`"),
        (("--image-size", 32), "`input`"),
        (("--freeze", 1), "`model`"),
    ):
        refused = invoke("train", "--resume", run, "--device", "cpu", *option)
        assert refused.exit_code == 2
        said = f"error: {named} cannot change when a run is resumed ({option[0]})\n"
        assert said in refused.stderr
    longer = invoke("train", "--resume", run, "--device", "cpu", "--epochs", 2, "--batch-size", 2)

    assert longer.exit_code == 0, longer.stderr
    assert "epoch [2]" in longer.stderr


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_run_folder_is_its_best_model(command: str, short: Invoke, tmp_path: Path) -> None:
    short("train", "--out", tmp_path / "run", "--epochs", 1)

    result = short(command, "--weights", tmp_path / "run", "--epochs", 1, "--out", tmp_path / "b")

    best = tmp_path / "run/best.safetensors"
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines()[0] == f"{tmp_path}/run: its best model, {best}"
    assert f"weights: {best}" in result.stderr
    inside = short(
        *(command, "--weights", tmp_path / "run", "--out", tmp_path / "run", "--overwrite")
    )
    assert inside.exit_code != 0
    assert best.exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--epochs", "0", "'--epochs': Input should be greater than or equal to 1"),
        ("--batch-size", "-1", "'--batch-size': '-1' is neither a number from 1 on nor 'auto'"),
        ("--batch-size", "2.5", "'--batch-size': '2.5' is neither a number from 1 on nor 'auto'"),
        ("--image-size", "0", "'--image-size': Input should be greater than or equal to 1"),
        ("--seed", "-1", "'--seed': Input should be greater than or equal to 0"),
        ("--workers", "-2", "'--workers': Input should be greater than or equal to -1"),
        ("--freeze", "-1", "'--freeze': Input should be greater than or equal to 0"),
        ("--freeze", "6", "must lie in [0, 5], got 6 (--freeze)"),
        ("--lr", "0", "`train.lr` must lie above 0, got 0.0 (--lr)"),
        ("--lr", "nan", "`train.lr` must be a finite number, got .nan (--lr)"),
        ("--epochs", "3", "--epochs and `--set train.epochs` change the same setting"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_line_that_names_the_option(
    option: str, value: str, said: str
) -> None:
    result = invoke("train", "--data", "x", option, value, "--set", "train.epochs=2")

    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.startswith("error:")
    assert len(result.stderr.partition("\n\nhint:")[0].splitlines()) == 1


def test_a_batch_size_is_a_number_or_auto() -> None:
    assert (number_or_auto("auto"), number_or_auto("12")) == ("auto", 12)

    for wrong in ("0", "-1", "1.5", "many"):
        result = invoke("train", "--data", ".", "--batch-size", wrong)
        assert result.exit_code == 2
        assert f"'{wrong}' is neither a number from 1 on nor 'auto'" in result.stderr


def test_the_help_of_a_short_option_names_its_settings() -> None:
    helps = {option.names[0]: option.info.help or "" for option in options_of(train_command)}

    short_ones = {name for name, text in helps.items() if "Short for" in text}
    assert short_ones == set(SHORT) - {"--data", "--val", "--cache", "--alias"}
    assert all(key in helps[name] for name in short_ones for key in SHORT[name])
