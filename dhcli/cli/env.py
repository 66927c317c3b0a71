"""`dh env`: what is installed, what the machine has, and what does not fit together."""

from __future__ import annotations

import os
import platform
import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import typer

from dhcli import __version__
from dhcli.cli.options import JsonFlag
from dhcli.data.io.memory import total_memory
from dhcli.report.console import err, print_json
from dhcli.report.sheet import Cell, Sheet, list_facts

_GIB = 2**30


def env(as_json: JsonFlag = False) -> None:
    """Check your installation: versions, the machine, its GPU, and whether all fit together.

    The exit code is 1 if there are problems.

    For example:
      dh env
      dh env --json > env.json
    """
    facts = describe_machine()
    packages = installed_packages()
    broken = {name: error for name in ("torch", "torchvision") if (error := import_error(name))}
    facts |= {} if "torch" in broken else describe_torch()
    problems = [*find_problems(packages, broken), *find_gpu_problems(facts)]
    if as_json:
        print_json({**facts, "packages": packages, "problems": problems})
    else:
        _show(facts, packages)
        for problem in problems:
            err.print(f"\nproblem: {problem}")
    if problems:
        raise typer.Exit(1)


def describe_machine() -> dict[str, Any]:
    """Program, Python, platform, usable cores and memory in GiB (a container's, if less)."""
    return {
        "dh": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(total_memory() / _GIB, 1),
    }


def installed_packages() -> dict[str, str | None]:
    """Version of every package that dh names, extras included; None where it is absent."""
    return {name: _version(name) for name in requirements()}


def requirements() -> dict[str, tuple[str | None, bool]]:
    """For each package that dh names, the least version, and whether it belongs to an extra."""
    try:
        lines = requires("dhcli") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        return dict.fromkeys(("torch", "torchvision"), (None, False))
    wanted = {}
    for line in lines:
        if 'extra == "dev"' in line.replace("'", '"'):
            continue
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        least = re.search(r">=([\w.]+)", line)
        wanted[name] = (least.group(1) if least else None, "extra ==" in line)
    return dict(sorted(wanted.items()))


def import_error(module: str) -> str | None:
    """Why `module` cannot be imported, in one line; None if it can."""
    try:
        import_module(module)
    except Exception as error:  # a broken build raises anything: ImportError, OSError, RuntimeError
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def describe_torch() -> dict[str, Any]:
    """What torch was built for, and the accelerators that it sees."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(index)
        gpus.append(
            {
                "name": gpu.name,
                "memory_gib": round(gpu.total_memory / _GIB, 1),
                "capability": f"{gpu.major}.{gpu.minor}",
            }
        )
    return {
        "torch_cuda": torch.version.cuda,
        "gpus": gpus,
        "mps": torch.backends.mps.is_available(),
    }


def find_problems(packages: dict[str, str | None], broken: dict[str, str]) -> list[str]:
    """A sentence for each thing that does not fit together.

    `packages` as `installed_packages` gives them, `broken` the import error of each module.
    """
    problems = []
    for name, (least, is_extra) in requirements().items():
        found = packages.get(name)
        if found is None and not is_extra:
            problems.append(f"{name} is not installed: pip install {name}")
        elif found and least and _release(found) < _release(least):
            problems.append(f"{name} {found} is older than {least}, the least that dh works with")
    for name, error in broken.items():
        if packages.get(name):
            problems.append(_explain_import(name, error, packages))
    return problems


def find_gpu_problems(facts: dict[str, Any], driver: Path = Path("/dev/nvidiactl")) -> list[str]:
    """A sentence where the machine has an NVIDIA GPU that torch cannot use.

    `facts` as `describe_torch` gives them; nothing is said where torch cannot be imported.
    """
    if not driver.exists() or facts.get("gpus", True):
        return []
    built = facts["torch_cuda"]
    reason = f"it needs a driver for CUDA {built}" if built else "it was built without CUDA"
    return [f"torch cannot use the NVIDIA GPU of this machine: {reason}"]


def _explain_import(name: str, error: str, packages: dict[str, str | None]) -> str:
    """Why an installed torch or torchvision cannot be imported; mostly they do not fit together."""
    pair = f"torch {packages.get('torch')} and torchvision {packages.get('torchvision')}"
    if name == "torchvision" and "torchvision::" in error:
        return (
            f"{pair} are not of one build, so torchvision cannot be imported ({error}); "
            "install both anew from one place: "
            "pip install --force-reinstall torch torchvision"
        )
    return f"{name} {packages[name]} is installed, but cannot be imported: {error}"


def _show(facts: dict[str, Any], packages: dict[str, str | None]) -> None:
    from dhcli.report.terminal import show

    show(_sheet(facts, packages))


def _sheet(facts: dict[str, Any], packages: dict[str, str | None]) -> Sheet:
    """Everything that --json has, but for the problems."""
    rows: list[tuple[str, Cell]] = [
        (key.replace("_gib", " (GiB)").replace("_", " "), value)
        for key, value in facts.items()
        if key != "gpus"
    ]
    for gpu in facts.get("gpus", []):
        rows.append(("gpu", f"{gpu['name']}, {gpu['memory_gib']} GiB, sm {gpu['capability']}"))
    if not facts.get("gpus"):
        rows.append(("gpu", "none that torch can use"))
    rows += [(name, found or "not installed") for name, found in packages.items()]
    return list_facts("Installation", rows)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _release(number: str) -> tuple[int, ...]:
    """(2, 15, 0) of "2.15.0+cpu"; a version that is not a number counts as the oldest."""
    release = re.match(r"\d+(\.\d+)*", number)
    return tuple(int(part) for part in release.group().split(".")) if release else ()
