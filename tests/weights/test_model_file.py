from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dhcli.errors import DhError, ModelError
from dhcli.weights.model_file import ModelFile, read_metadata, read_model, save_model


def a_zip() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("nonsense", bytes(10_000_000))
    return memory.getvalue()


def a_checkpoint() -> bytes:
    memory = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, memory)
    return memory.getvalue()


def test_what_is_saved_is_read_back(tmp_path: Path, small_model) -> None:
    saved = small_model("car", "Straßenbahn")
    path = tmp_path / "model.safetensors"

    save_model(path, ModelFile(**{**vars(saved), "metadata": {"epoch": 3, "metrics": {"AP": 0.5}}}))
    read = read_model(path)

    assert read.config == saved.config
    assert read.classes == ("car", "Straßenbahn")
    assert read.category_ids == (1, 2)
    assert read.metadata["epoch"] == 3
    assert set(read.metadata) == {"dh", "torch", "date", "epoch", "metrics"}
    assert list(read.state) == sorted(saved.state)
    assert all(torch.equal(read.state[name], saved.state[name]) for name in saved.state)


def test_the_header_tells_shapes_without_tensors(tmp_path: Path, small_model) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, small_model("car", "van", "bus"))

    header = read_metadata(path)

    assert header.shapes["head.branches.fc.cls.weight"] == (4, 24)
    assert header.classes == ("car", "van", "bus")


def test_the_header_is_read_without_torch(tmp_path: Path, small_model) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, small_model("car"))
    code = (
        "import sys, pathlib; from dhcli.weights.model_file import read_metadata; "
        "read_metadata(pathlib.Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0


def test_classes_that_could_not_be_read_back_are_not_written(tmp_path: Path, small_model) -> None:
    path = tmp_path / "model.safetensors"
    saved = small_model("car", "van")

    with pytest.raises(ModelError, match="classes must be a list of different names") as caught:
        save_model(path, replace(saved, classes=("car", "car")))

    assert caught.value.where == str(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"\x00\x01garbage" * 40, "not a kind of file that dh knows"),
        (b"hello\n", "it is text"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b'{"classes": []}', "JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (a_zip(), "a zip archive"),
        (a_checkpoint(), "a PyTorch checkpoint (.pth)"),
        (pickle.dumps({"a": 1}), "a Python pickle"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG image"),
        (struct.pack("<Q", 5000) + b'{"a": 1}', "a truncated safetensors file"),
        (struct.pack("<Q", 10**15) + b"{}", "a truncated safetensors file"),
        (struct.pack("<Q", 8) + b"{]]]]]]}" + bytes(16), "a damaged safetensors file"),
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(ModelError, match="is not a model file of dh") as caught:
        read_model(path)

    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "dh train" in str(caught.value.hint)


def test_a_truncated_model_file_is_named(tmp_path: Path, small_model) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, small_model("car"))
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(ModelError, match="safetensors file"):
        read_model(path)


def test_weights_without_description_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    save_file({"a": torch.zeros(2)}, path)

    with pytest.raises(ModelError, match="without the description"):
        read_model(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layout": 99}, "newer dh"),
        ({"classes": []}, "damaged"),
        ({"classes": ["a", "a"]}, "damaged"),
        ({"classes": [1, 2]}, "damaged"),
        ({"category_ids": [1]}, "damaged"),
        ({"category_ids": "x"}, "damaged"),
        ({"category_ids": [1, float("inf")]}, "damaged"),
        ({"category_ids": [1, 10**30]}, "damaged"),
        ({"metadata": 3}, "damaged"),
        ({"config": []}, "damaged"),
        ({"config": {"modell": {}}}, "does not fit this dh"),
        ({"config": {"input": {"min_size": -1}}}, "does not fit this dh"),
        ({"config": {"input": {"max_size": 60_000}}}, r"must lie in \[1, 20000\], got 60000"),
        ({"config": {"input": {"divisor": 100_000}}}, r"must lie in \[1, 1024\]"),
        ({"config": {"model": {"neck": {"channels": 2**40}}}}, r"must lie in \[1, 4096\]"),
    ],
)
def test_a_damaged_description_is_an_error(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    about = {"layout": 1, "config": {}, "classes": ["a", "b"], "category_ids": [1, 2]}
    path = tmp_path / "model.safetensors"
    text = json.dumps({**about, "metadata": {}, **change})
    save_file({"a": torch.zeros(2)}, path, metadata={"dh": text})

    with pytest.raises(ModelError, match=said):
        read_model(path)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000])
def test_a_description_that_is_no_object_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"dh": text})

    with pytest.raises(ModelError, match="damaged"):
        read_model(path)


def test_a_missing_file_and_a_folder_are_errors_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").touch()

    with pytest.raises(ModelError, match="no such file"):
        read_model(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match="is a folder") as caught:
        read_model(tmp_path)

    assert str(tmp_path / "best.safetensors") in str(caught.value.hint)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, small_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, small_model("car"))
    before = path.read_bytes()
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(full))

    with pytest.raises(DhError, match="No space left"):
        save_model(path, small_model("van"))

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
