"""What Tab offers: keys and values of `--set`, metrics, formats; quickly, without torch."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dhcli.cli.completion import complete_setting
from dhcli.config.keys import every_key, known_keys
from dhcli.config.load import load_config
from dhcli.config.presets import preset_names
from dhcli.config.schema import Config
from dhcli.config.tree import as_tree

SHIM = """\
import sys
from dhcli.cli import app
try:
    app(prog_name="dh")
finally:
    if {"torch", "torchvision", "albumentations", "matplotlib"} & set(sys.modules):
        print("HEAVY")
"""
BASH = """\
source {script}
COMP_WORDS=({words}) COMP_CWORD={at}
_dh_completion dh
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

WARM_UPS = ("warmup", "warmup_factor", "warmup_shape", "warmup_epochs")


def completed(words: list[str], **environment: str) -> list[str]:
    """What the program says to Bash, of words as Bash divides them; the cursor is in the last."""
    said = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    result = subprocess.run(
        [sys.executable, "-c", SHIM],
        capture_output=True,
        text=True,
        env={**os.environ, "_DH_COMPLETE": "complete_bash", **said, **environment},
        check=True,
    )
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "train --set train.schedule.w",
            [f"train.schedule.{one}=" for one in WARM_UPS],
        ),
        ("train --set train.wor", ["train.workers=", "train.workers=-1"]),
        ("train --set model.backbone.norm = ev", ["eval_bn"]),
        ("train --set model.backbone.norm =", ["frozen_bn", "eval_bn", "bn", "gn", "ln"]),
        ("train --set train.lr = 0.1 --set train.scale_lr = ", ["true", "false"]),
        ("finetune photos -s train.optimizer = ", ["sgd", "adamw"]),
        ("eval --metric c", ["coco"]),
        ("eval --metric coco,voc", ["coco,voc07", "coco,voc12"]),
        ("predict --format csv,c", ["csv,coco-json"]),
        ("train --preset demo", ["demo"]),
        ("eval --engine p", ["pycocotools"]),
        ("eval --scores c", ["conv", "complementary"]),
        ("bench --device c", ["cpu", "cuda"]),
        ("convert a b --to coc", ["coco"]),
        ("train --fr", ["--freeze"]),
        ("train --cache = r", ["ram"]),
    ],
)
def test_bash_is_offered_what_goes_on_from_the_cursor(line: str, found: list[str]) -> None:
    assert completed(["dh", *line.split(" ")]) == found


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_installed_script_of_bash_completes_a_value(tmp_path: Path) -> None:
    start = [sys.executable, "-c", "from dhcli.cli import app; app(prog_name='dh')"]
    dh = tmp_path / "dh"
    dh.write_text(f"#!/bin/sh\nexec {shlex.join(start)}\n", "utf-8")
    dh.chmod(0o755)
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": ":".join(sys.path)}
    run: Any = {"capture_output": True, "text": True, "check": True}
    source = {**os.environ, **paths, "_DH_COMPLETE": "source_bash"}
    script = subprocess.run(start, env=source, **run).stdout
    (tmp_path / "dh.sh").write_text(script, "utf-8")
    words = "dh train --set model.backbone.norm = fro"
    command = BASH.format(script=tmp_path / "dh.sh", words=words, at=5)

    result = subprocess.run(["bash", "-c", command], env={**os.environ, **paths}, **run)

    assert result.stdout.split() == ["frozen_bn"]


def test_a_shell_that_keeps_the_word_whole_gets_it_whole() -> None:
    norms = [word for word, _ in complete_setting("model.backbone.norm=")]

    assert norms[0] == "model.backbone.norm=frozen_bn"
    assert complete_setting("train.epochs")[1] == (
        "train.epochs=0",
        "Number of epochs, in place of `schedule.length`; the lr milestones move in proportion (0: "
        "train for `schedule.length`)",
    )
    assert complete_setting("nothing") == complete_setting("nothing=") == []


def test_every_key_is_offered_of_every_kind() -> None:
    offered = {word for word, _ in complete_setting("")}

    for preset in preset_names():
        tree = as_tree(load_config(preset).config.model_dump(by_alias=True), "")
        assert isinstance(tree, dict)
        keys = {f"{key}=" for key, _ in known_keys(tree, Config)}
        # names and places of this preset's own
        own = ("fc2", "conv2", "sibling", ".pc.", ".pr.", ".iou.", "cascade.1", "cascade.2")
        named = {key for key in keys if any(name in key for name in own)}
        assert keys - named <= offered, preset
    assert {"model.head.branches.res5.omega=", "model.neck.channels="} <= offered
    assert len(offered) == len({key for key, _ in every_key(Config)})
