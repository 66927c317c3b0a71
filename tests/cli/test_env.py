from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dhcli
from dhcli.cli import app, env


def test_env_says_what_is_installed() -> None:
    result = CliRunner().invoke(app, ["env", "--json"])

    document = json.loads(result.stdout)
    assert document["dh"] == dhcli.__version__
    assert document["python"] == sys.version.split()[0]
    assert document["packages"]["torch"]
    assert document["cores"] >= 1
    assert document["memory_gib"] > 0
    assert result.exit_code == (1 if document["problems"] else 0)


def test_a_problem_goes_to_stderr_and_into_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "installed_packages", lambda: {**PAIR, "numpy": None})
    monkeypatch.setattr(env, "import_error", lambda name: None)

    result = CliRunner().invoke(app, ["env"])

    assert result.exit_code == 1
    assert "problem: numpy is not installed: pip install numpy" in result.stderr
    assert "problem" not in result.stdout


PAIR = {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}
GOOD = dict.fromkeys(env.requirements(), "9999.0") | PAIR


def test_a_torchvision_of_another_build_is_explained_in_a_sentence() -> None:
    error = "RuntimeError: operator torchvision::nms does not exist"

    problems = env.find_problems(GOOD, {"torchvision": error})

    assert len(problems) == 1
    assert problems[0].startswith(
        "torch 2.13.0+cpu and torchvision 0.28.0 are not of one build, so torchvision cannot be"
    )
    assert "pip install --force-reinstall torch torchvision" in problems[0]


def test_another_import_error_is_quoted() -> None:
    problems = env.find_problems(GOOD, {"torch": "OSError: libcudart.so.13: cannot open"})

    assert problems == [
        "torch 2.13.0+cpu is installed, but cannot be imported: OSError: libcudart.so.13: "
        "cannot open"
    ]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"typer": "0.1.2"}, ["typer 0.1.2 is older than 0.29, the least that dh works with"]),
        ({"torch": None}, ["torch is not installed: pip install torch"]),
        ({"onnx": None}, []),  # an extra
        ({"torch": "2.10.0"}, []),  # 10 is more than 9
    ],
)
def test_versions_that_do_not_fit(found: dict[str, str | None], said: list[str]) -> None:
    monkeyed = {"typer": ("0.29", False), "torch": ("2.9", False), "onnx": ("1.18", True)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(env, "requirements", lambda: monkeyed)
        assert env.find_problems({**GOOD, **found}, {}) == said


def test_the_requirements_are_those_of_the_package() -> None:
    wanted = env.requirements()

    assert wanted["torch"][1] is False
    assert wanted["onnx"][1] is True
    assert "pytest" not in wanted


def test_a_module_that_breaks_on_import_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenbuild.py").write_text("raise RuntimeError('operator x\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)

    assert env.import_error("brokenbuild") == "RuntimeError: operator x"
    assert env.import_error("json") is None


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"gpus": [], "torch_cuda": None}, ["it was built without CUDA"]),
        ({"gpus": [], "torch_cuda": "13.2"}, ["it needs a driver for CUDA 13.2"]),
        ({"gpus": [{"name": "H200"}], "torch_cuda": "13.2"}, []),
        ({}, []),  # torch cannot be imported, which is said already
    ],
)
def test_a_gpu_that_torch_cannot_use(
    facts: dict[str, object], said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "nvidiactl").touch()

    found = env.find_gpu_problems(facts, tmp_path / "nvidiactl")

    assert [text.partition(": ")[2] for text in found] == said
    assert env.find_gpu_problems(facts, tmp_path / "none") == []
