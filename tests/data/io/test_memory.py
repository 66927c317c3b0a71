"""What is free is the least of what the machine and the control groups have."""

from __future__ import annotations

from pathlib import Path

import pytest

from dhcli.data.io.memory import available_memory, total_memory


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 MB free; the process is in the control groups /a/b."""
    (tmp_path / "meminfo").write_text("MemTotal: 16000 kB\nMemAvailable:    8000 kB\n", "ascii")
    (tmp_path / "cgroup").write_text("4:memory:/a/b\n3:cpu:/\n0::/a/b\n", "ascii")
    for name, path in (("_STATE", "meminfo"), ("_OWN_GROUPS", "cgroup"), ("_GROUPS", "groups")):
        monkeypatch.setattr(f"dhcli.data.io.memory.{name}", tmp_path / path)
    return tmp_path


def _group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text, "ascii")


def test_without_a_limit_it_is_the_machines(system: Path) -> None:
    assert available_memory() == 8000 * 1024

    _group(system / "groups/a/b", max="max\n", current="5000\n", stat="inactive_file 1\n")

    assert available_memory() == 8000 * 1024


@pytest.mark.parametrize("place", ["", "a", "a/b"])
def test_a_group_of_version_2_has_what_is_left_of_its_limit(system: Path, place: str) -> None:
    """Its own, or one above it. What it has cached can be dropped."""
    stat = "anon 90\ninactive_file 200\nactive_file 100\n"
    _group(system / "groups" / place, max="4000\n", current="1000\n", stat=stat)

    assert available_memory() == 4000 - (1000 - 300)
    assert total_memory() == 4000


def test_a_group_of_version_1_has_what_is_left_of_its_limit(system: Path) -> None:
    own = system / "groups/memory/a/b"
    stat = "inactive_file 7\ntotal_inactive_file 200\ntotal_active_file 100\n"
    _group(own, limit_in_bytes="4000\n", usage_in_bytes="1000\n", stat=stat)
    _group(own.parent, limit_in_bytes="9223372036854771712\n", usage_in_bytes="1000\n")

    assert available_memory() == 4000 - (1000 - 300)
    assert total_memory() == 4000


def test_a_group_over_its_limit_has_nothing(system: Path) -> None:
    _group(system / "groups", max="4000\n", current="5000\n")

    assert available_memory() == 0


def test_a_system_that_does_not_say_is_not_known(system: Path) -> None:
    (system / "meminfo").unlink()
    (system / "cgroup").unlink()

    assert available_memory() is None
    assert total_memory() > 2**25
