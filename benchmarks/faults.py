"""Situations that no folder holds: kills, full disks, hostile and huge inputs, as shell scripts.

Each runs in an empty folder with `dh` on its path, `$CASES` the folder of cases, `$DEMO` what
`dh demo` made. Some need root (`mount`) and say so where they have none.
"""

from __future__ import annotations

_TINY = """
cat > tiny.yaml <<'END'
extends: demo
input: {min_size: 96, max_size: 96}
augment: {min_sizes: []}
train: {batch_size: 2, workers: 0, schedule: {length: 4, warmup: 1}}
END
dh convert "$DEMO/shapes" data --to voc --limit 12 --split 0.75/0.25 >/dev/null 2>&1
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
    "22 output that cannot be written": """dh inspect "$DEMO/shapes" --json > /dev/full
PYTHONIOENCODING=ascii dh info "$DEMO/run/best.safetensors" 2>&1 | tail -2""",
}
