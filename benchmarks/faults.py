"""Faults: kills, full disks, hostile and huge inputs.

    python benchmarks/faults.py --kills 200
    python benchmarks/faults.py --kills 200 --processes 2

kills small trainings by SIGKILL, half of them at a random moment (after a random line of their
events and a random time), half in the middle of a save;
resumes each, and compares its models and its whole state with those of a training that nobody
killed. Adds a row to results/faults.csv; the exit code is 1 if a run is lost or differs. With
`--minutes` it ends after so long, with as many as there are by then.

`FAULTS` are situations that no folder of cases holds, as shell scripts for cases.py. Each runs in
an empty folder with `dh` on its path, `$CASES` the folder of cases, `$DEMO` what `dh demo` made.
Some need root (`mount`) and say so where they have none.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TINY = """
cat > tiny.yaml <<'END'
extends: demo
input: {min_size: 96, max_size: 96}
augment: {min_sizes: []}
train: {batch_size: 2, workers: 0, schedule: {length: 4, warmup: 1}}
END
dh convert "$DEMO/shapes" data --to voc --limit 12 --split 0.75/0.25 >/dev/null 2>&1
"""
_WRITERS = """
cat > tiny.yaml <<'END'
extends: demo
train: {schedule: {length: 2, warmup: 1}}
END
writers() {
  w="$DEMO/run/best.safetensors" d="$DEMO/shapes"
  one() { "$@" 2>&1 | grep error: || echo "NO ERROR: $*"; }
  one dh train --preset tiny.yaml --data "$d" --out m/run
  one dh finetune "$d" --weights "$w" --out m/tuned
  one dh eval --weights "$w" --data "$d" --split val --out m/eval
  one dh predict --weights "$w" "$d/JPEGImages" --out m/p
  one dh export "$w" --out m/x.onnx
  one dh convert "$d" m/yolo --to yolo
  one dh convert "$d" m/tiles --to yolo --tile 48
  one dh inspect "$d" --out m/pictures
  one dh check "$d" --fix m/mended
  one dh weights set-read-out "$w" --scores fc --out m/x.safetensors
  one dh demo --out m/demo
}
"""
_TRAIN = "dh train --preset tiny.yaml --data data --out run"

FAULTS = {
    "00 /dev/shm of 1 MB": _TINY
    + """unshare -m bash -c 'mount -t tmpfs -o size=1m none /dev/shm || exit 77
timeout 200 dh train --preset tiny.yaml --data data --out run --set train.workers=2 \
--set input.min_size=800 --set input.max_size=1200 --set train.batch_size=4' 2>&1 | tail -4""",
    "01 a learning rate of ten million": _TINY
    + f"{_TRAIN} --set train.lr=1e7 --set train.optimizer=sgd 2>&1 | tail -3; echo --;"
    + "dh train --resume run 2>&1 | tail -3",
    "02 aliases of a YAML file": 'python3 "$CASES/faults/02-yaml-alias-bomb/make.py" bomb;'
    "(ulimit -v 12000000; timeout 60 dh check bomb 2>&1 | tail -3)",
    "03 a loader is killed": _TINY
    + f"({_TRAIN} --set train.workers=2 --set train.schedule.length=40 2>&1 | tail -4) & sleep 14;"
    "pkill -9 -n -f 'preset tiny.yaml'; wait",
    "06 tiles of a stated size": """mkdir d; echo '{"images":[{"id":1,"file_name":"a.png",
"width":1000000000,"height":1000000000}],"annotations":[],"categories":[{"id":1,"name":"c"}]}' \
> d/instances.json; (ulimit -v 6000000; timeout 60 dh convert d out --to coco --tile 64 \
--images none 2>&1 | tail -2)""",
    "07 a full disk, tiles": """mkdir m; mount -t tmpfs -o size=60k none m || exit 77
dh convert "$DEMO/shapes" m/c --to yolo --tile 48 --limit 20 2>&1 | tail -2; ls -A m; umount m""",
    "08 what a killed convert leaves": """dh convert "$DEMO/shapes" out --to yolo >/dev/null 2>&1 &
sleep 1.2; pkill -9 -n -f 'to yolo'; wait; ls -A; sleep 1
dh convert "$DEMO/shapes" out --to yolo >/dev/null 2>&1; ls -A""",
    "09 a full disk, pictures": """mkdir m; mount -t tmpfs -o size=300k none m || exit 77
dh predict --weights "$DEMO/run/best.safetensors" "$DEMO/shapes/JPEGImages" --out m/p \
--format none 2>&1 | tail -2; find m -name '*.jpg' | wc -l; umount m""",
    "10 labels edited, then resumed": _TINY
    + f"{_TRAIN} --set train.schedule.length=1 >/dev/null 2>&1;"
    "sed -i 's/circle/XX/;s/square/circle/;s/XX/square/' data/Annotations/*.xml;"
    "dh train --resume run --set train.schedule.length=3 2>&1 | tail -2",
    "11 names steer the terminal": r"""mkdir d; printf '{"images":[],"annotations":[],"categories":
[{"id":1,"name":"\\u001b]0;PWN\\u0007t"}]}' > d/instances.json; dh check d 2>&1 | cat -v | tail -2
dh check $'/tmp/\x1b[31mx' 2>&1 | cat -v""",
    "14 the run folder goes away": _TINY
    + f"({_TRAIN} --set train.schedule.length=30 2>&1 | tail -3) & sleep 12; mv run gone; wait;"
    "ls run gone",
    "15 links out of a dataset": """mkdir -p d/images; ln -s /etc/passwd d/images/s.png
echo '{"images":[{"id":1,"file_name":"s.png","width":9,"height":9}],"annotations":[],
"categories":[{"id":1,"name":"c"}]}' > d/instances.json; dh convert d out --to yolo 2>&1 | tail -3
find out -type f""",
    "16 two resume one run": _TINY + f"{_TRAIN} --set train.schedule.length=1 >/dev/null 2>&1;"
    "for i in 1 2; do dh train --resume run --set train.schedule.length=3 2>&1 | tail -2 & done;"
    "wait",
    "17 no memory": """(ulimit -v 5000000; dh predict --weights "$DEMO/run/best.safetensors" \
"$DEMO/shapes/JPEGImages" --out p 2>&1 | tail -3)
dh presets show demo --set input.min_size=1000000 --set input.max_size=1000000 2>&1 | tail -3
dh presets show demo --set model.neck.channels=10000000 2>&1 | tail -3""",
    "18 old results and new ones": """set -- "$DEMO/shapes/JPEGImages/"*
dh predict --weights "$DEMO/run/best.safetensors" "$1" --out p --format yolo >/dev/null 2>&1
dh predict --weights "$DEMO/run/best.safetensors" "$2" --out p --format yolo 2>&1 | tail -3
ls p/yolo""",
    "20 torchrun": _TINY
    + "timeout 100 torchrun --nproc-per-node 2 -m dhcli train --preset tiny.yaml --data data "
    "2>&1 | tail -3; ls runs/train",
    "21 a run without checkpoint": _TINY
    + f"({_TRAIN} --set train.schedule.length=30 >/dev/null 2>&1) & sleep 7;"
    "pkill -9 -f 'preset tiny.yaml'; wait; dh train --resume run 2>&1 | tail -3; echo --;"
    f"{_TRAIN} 2>&1 | tail -2",
    "30 every command on a full disk": """mkdir m; mount -t tmpfs -o size=1m none m || exit 77
"""
    + _WRITERS
    + """head -c 2M /dev/zero > m/filler 2>/dev/null
writers 2>&1 | sed 's/: .*: cannot/: … cannot/' | sort | uniq -c
find m -name '*.part'; umount m""",
    "31 every command in a read-only folder": """mkdir m
mount -t tmpfs -o ro,size=1m none m || exit 77
"""
    + _WRITERS
    + """writers 2>&1 | sed 's/: .*: cannot/: … cannot/' | sort | uniq -c; umount m""",
    "22 output that cannot be written": """dh inspect "$DEMO/shapes" --json > /dev/full
PYTHONIOENCODING=ascii dh info "$DEMO/run/best.safetensors" 2>&1 | tail -2""",
}

TOY = """
extends: demo
input: {min_size: 64, max_size: 64}
model:
  backbone: {kind: timm, name: test_resnet, weights: none, norm: bn, frozen_stages: 0}
  neck: {channels: 16}
  rpn: {pre_nms_train: 40, pre_nms_test: 40, proposals_train: 20, proposals_test: 20, samples: 16}
  head: {samples: 16, branches: {fc: {width: 16}, conv: {width: 16, residual: 1, non_local: 0}}}
train:
  batch_size: 2
  workers: 0
  ema: 0.9
  save_minutes: 0.00001
  eval_every: 1
  schedule: {length: 8, steps: [6], warmup: 1}
"""
"""Two epochs of four iterations; all is saved after each of them."""
CALLS = ("open", "os.rename", "os.link", "os.remove", "os.chmod")
Step = Callable[[str], None]
"""Takes "c" before a call by which a save touches a file, "w" amid a write."""


def in_saves(step: Step) -> None:
    """Have `step` called wherever a save of this process can be cut off."""
    import dhcli.atomic as atomic

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CALLS and any(".part" in str(a) or "checkpoint" in str(a) for a in arguments):
            step("c")

    class Torn(atomic._WholeFile):
        def write(self, data: Any) -> int:
            half = len(data) // 2
            done = super().write(data[:half])
            if half > 1000:  # a buffer may hold back less
                self.flush()
                step("w")
            return done + super().write(data[half:])

    sys.addaudithook(audit)
    atomic._WholeFile = Torn  # type: ignore[misc]


FINISHED = re.compile(r"is finished: (\d+) of \1 epochs")
COUNTS = (
    *("resumed", "resumed_in_a_save", "resumed_at_the_end", "begun_anew", "lost_or_different"),
    *("files_left", "files_still_there"),
)


@dataclass
class Lab:
    """Where trainings are run and killed.

    steps    of all saves of a training that is not killed
    seconds  from one of its events to the next, on average
    events   how many it had
    """

    folder: Path
    processes: int
    steps: str = ""
    seconds: float = 0.0
    events: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    @property
    def straight(self) -> Path:
        return self.folder / "straight"

    def words(self, run: Path) -> list[str]:
        preset, data = self.folder / "toy.yaml", self.folder / "data"
        return ["train", "--preset", str(preset), "--data", str(data), "--out", str(run)]

    def prepare(self) -> None:
        """Draw the data, and train without a kill."""
        from dhcli.data.shapes import draw_shapes

        (self.folder / "toy.yaml").write_text(TOY, "utf-8")
        draw_shapes(self.folder / "data", images=10, seed=0, size=(64, 64))
        begun = time.time()
        status = wait(self.begin(self.words(self.straight), count=self.folder / "steps"))
        if status:
            sys.exit((self.folder / "log.txt").read_text("utf-8"))
        self.events = events_of(self.straight)
        self.seconds = (time.time() - begun) / self.events
        self.steps = (self.folder / "steps").read_text("ascii")

    def begin(
        self, words: Sequence[str], last: int | None = None, count: Path | None = None
    ) -> int:
        """Start `dh` with `words` in a session of its own; its process, the first of several.

        All are forked of this one, which has imported everything: they start at once, and find one
        another as torchrun's do. The first is killed at step `last` of its saves; `count` gets a
        letter per step.
        """
        if pid := os.fork():
            return pid
        os.setsid()
        log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        words = [*words, "--device", "cpu"]
        if self.processes > 1:
            rank = _ranks(self.processes)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            if rank:
                os._exit(_run(words))
        in_saves(_counter(last, count))
        os._exit(_run(words))

    def kill(self, run: Path, aimed: bool, random: random.Random) -> bool:
        """Train into `run` and kill that; whether it was killed before it ended."""
        if aimed:
            kind = random.choice("cw")
            last = random.choice([n for n, step in enumerate(self.steps, 1) if step == kind])
            return wait(self.begin(self.words(run), last=last)) < 0
        pid, after = self.begin(self.words(run)), random.randrange(self.events)
        while events_of(run) < after and is_alive(pid):
            time.sleep(0.001)
        time.sleep(random.uniform(0, self.seconds))
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return wait(pid) < 0

    def trial(self, number: int, aimed: bool, random: random.Random) -> bool:
        """Kill a training and go on with it; whether there was a state to resume."""
        run = self.folder / f"run-{number}"
        shutil.rmtree(run, ignore_errors=True)
        if not self.kill(run, aimed, random):
            return False
        parts = list(run.glob(".*.part"))
        for part in parts:  # a second is what a new one is given to be locked
            os.utime(part, (time.time() - 9, time.time() - 9))
        saved = any(run.glob("checkpoint*.pt"))
        words = ["train", "--resume", str(run)] if saved else self.words(run)
        if not saved and any(run.glob("*.safetensors")):  # killed in its first save
            words.append("--overwrite")
        failed = wait(self.begin(words))
        log = (self.folder / "log.txt").read_text("utf-8")
        if done := bool(failed) and FINISHED.search(log) is not None:  # killed as it drew curves
            failed = 0
        wrong = failed or differences(run, self.straight, self.processes)
        self._count("resumed" if saved else "begun_anew")
        self._count("resumed_at_the_end", done)
        self._count("resumed_in_a_save", saved and bool(parts))
        self._count("lost_or_different", bool(wrong))
        self._count("files_left", len(parts))
        self._count("files_still_there", len(list(run.glob(".*.part"))))
        if wrong:
            print(f"{run}: {wrong}\n{log}")
        else:
            shutil.rmtree(run)
        return saved

    def _count(self, name: str, more: int = 1) -> None:
        self.counts[name] += more


def events_of(run: Path) -> int:
    """How many events the run in this folder has written."""
    path = run / "events.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def is_alive(pid: int) -> bool:
    """Whether a process that this one started has not ended yet."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:  # it had ended before
        return False


def _ranks(processes: int) -> int:
    """Fork this process into as many as a team has; the rank of each."""
    from dhcli.runtime.launch import free_port

    os.environ |= {
        **{"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"},
    }
    return next((rank for rank in range(1, processes) if not os.fork()), 0)


def _counter(last: int | None, count: Path | None) -> Step:
    """What counts steps, into a file if that is given, and kills this process at step `last`."""
    done = 0
    file = None if count is None else count.open("wb", buffering=0)

    def step(kind: str) -> None:
        nonlocal done
        done += 1
        if file is not None:
            file.write(kind.encode())
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def _run(words: Sequence[str]) -> int:
    """Run `dh` in this process; its exit code."""
    from dhcli.cli import app

    sys.argv = ["dh", *words]
    try:
        app(words)
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def wait(pid: int) -> int:
    """The exit code of a process, −9 where it was killed; the others of its session are ended."""
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # it had ended before
        return 0
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return code


def differences(run: Path, straight: Path, processes: int) -> str:
    """The first difference between two runs; "" where there is none.

    To the bit for one process; to 1e-6 for several, whose sums may be taken in another order.
    """
    from safetensors.torch import load_file

    from dhcli.training.checkpoint import load_checkpoint

    tolerance = 0.0 if processes == 1 else 1e-6
    for name in ("best.safetensors", "last.safetensors", "checkpoint.pt"):
        load = load_checkpoint if name.endswith(".pt") else load_file
        one, other = (dict(leaves(load(folder / name))) for folder in (run, straight))
        if one.keys() != other.keys():
            return f"{name} has other parts"
        for key, value in one.items():
            if not same(value, other[key], tolerance):
                return f"{name}: {key}"
    tables = [(folder / "metrics.csv").read_text("utf-8") for folder in (run, straight)]
    return "metrics.csv" if processes == 1 and tables[0] != tables[1] else ""


def leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What lies in nested mappings and lists, with its place."""
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from leaves(item, f"{place}/{key}")
    elif isinstance(tree, list | tuple):
        yield from leaves(dict(enumerate(tree)), place)
    else:
        yield place, tree


def same(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two leaves are the same; numbers that are not, to `tolerance`."""
    import torch

    if isinstance(one, torch.Tensor):
        if not tolerance or not one.is_floating_point():
            return torch.equal(one, other)
        return torch.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True)
    if isinstance(one, float) and tolerance:
        return repr(one) == repr(other) or math.isclose(one, other, abs_tol=tolerance)
    return repr(one) == repr(other)


def import_all() -> None:
    """What a training imports, so that those that are forked start at once."""
    import hotcoco  # noqa: F401
    import timm  # noqa: F401
    import torch

    import dhcli.cli.train
    import dhcli.models.build
    import dhcli.report.curves
    import dhcli.report.training
    import dhcli.training.resume  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    from record import RESULTS, about, add_row

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="kills that leave a state to resume")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "faults.csv")
    words = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import_all()
    chance, begun, resumed, number = random.Random(words.seed), time.perf_counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), words.processes)
        lab.prepare()
        while resumed < words.kills and time.perf_counter() - begun < 60 * words.minutes:
            number += 1
            resumed += lab.trial(number, aimed=bool(resumed % 2), random=chance)
            print(f"{number}: {lab.counts}", file=sys.stderr, flush=True)
    steps = {"calls_in_saves": lab.steps.count("c"), "writes_in_saves": lab.steps.count("w")}
    counts = {"processes": words.processes, **steps, **lab.counts}
    row = {**counts, "minutes": round((time.perf_counter() - begun) / 60, 1), **about("torch")}
    add_row(words.out, row)
    sys.exit(bool(lab.counts["lost_or_different"] or lab.counts["files_still_there"]))


if __name__ == "__main__":
    main()
