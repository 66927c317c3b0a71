"""Which objects of the data a study looks at, and how a model sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dhcli.config.detecting import DetectOptions
from dhcli.data.formats import read_dataset
from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import Flag
from dhcli.errors import DataError
from dhcli.studies.objects import SIZES, Objects, read_objects, views
from dhcli.studies.subjects import Subject, open_subjects
from dhcli.weights.model_file import ModelFile, save_model
from tests.studies.conftest import FC

CPU = DetectOptions(device="cpu")


@pytest.fixture
def subjects(study_model: Callable[..., Path]) -> list[Subject]:
    return open_subjects([study_model("one", FC)], None, CPU)


def read(data: object, subjects: list[Subject], **more: int) -> tuple[Objects, list[str]]:
    lines: list[str] = []
    return read_objects(data, None, subjects, say=lines.append, **more), lines  # type: ignore[arg-type]


def test_crowd_ignored_difficult_and_unknown_boxes_are_no_objects(
    study_data: Path, subjects: list[Subject]
) -> None:
    table = read_dataset(study_data)
    table.flags[table.rows(2).start] |= Flag.DIFFICULT

    objects, lines = read(table, subjects)

    assert objects.classes == ("car", "bus")
    assert objects.images.tolist() == [0, 0, 1, 1, 2]
    assert objects.labels.tolist() == [0, 1, 0, 1, 1]
    assert objects.labels_of(("bus", "car")).tolist() == [1, 0, 1, 0, 0]
    assert [SIZES[number] for number in objects.sizes[:2]] == ["medium", "small"]
    assert "no large objects in these images: left out" in lines
    assert any("`boat`" in line for line in lines)


def test_a_model_sees_objects_where_training_would(
    study_data: Path, subjects: list[Subject]
) -> None:
    objects, _ = read(study_data, subjects)
    runner = subjects[0].runner

    seen = list(views(objects, runner))

    table = objects.table.with_classes(("bus", "car"), others="drop")
    loader = EvalLoader(table, runner.config.input, batch_size=1, workers=0)
    for view, batch in zip(seen, loader, strict=True):
        assert view.image == batch.indices[0]
        np.testing.assert_allclose(view.boxes, batch.targets[0].boxes, rtol=1e-6)
        assert view.labels.tolist() == batch.targets[0].labels.tolist()
        np.testing.assert_allclose(view.to_network(objects.boxes[view.rows]), view.boxes)
        assert view.batch.pixels.equal(batch.images.pixels)


def test_images_are_a_choice_by_the_seed(study_data: Path, subjects: list[Subject]) -> None:
    def files(seed: int) -> list[str]:
        return list(map(str, read(study_data, subjects, images=2, seed=seed)[0].table.files))

    assert files(0) == files(0)
    assert len(files(0)) == 2
    assert len({tuple(files(seed)) for seed in range(9)}) > 1


def test_images_without_objects_are_seen_where_they_are_wanted(
    study_data: Path, subjects: list[Subject]
) -> None:
    table = read_dataset(study_data)
    table.flags[table.rows(1)] = Flag.IGNORE
    objects, _ = read(table, subjects)

    assert sorted(view.image for view in views(objects, subjects[0].runner)) == [0, 2]
    every = {view.image: view.rows for view in views(objects, subjects[0].runner, empty=True)}
    assert sorted(every) == [0, 1, 2]
    assert every[1].tolist() == []
    assert objects.images[every[2]].tolist() == [2, 2]


def test_only_classes_that_every_model_knows_count(
    study_data: Path,
    subjects: list[Subject],
    tmp_path: Path,
    small_model: Callable[..., ModelFile],
) -> None:
    save_model(tmp_path / "cars.safetensors", small_model("car", "tram", branches=[FC]))
    both = [*subjects, *open_subjects([tmp_path / "cars.safetensors"], None, CPU)]

    objects, _ = read(study_data, both)

    assert objects.classes == ("car",)


def test_data_without_the_classes_or_without_objects_are_an_error(
    study_data: Path,
    subjects: list[Subject],
    tmp_path: Path,
    small_model: Callable[..., ModelFile],
) -> None:
    save_model(tmp_path / "trams.safetensors", small_model("tram", branches=[FC]))
    table = read_dataset(study_data)
    table.flags[:] = Flag.CROWD

    with pytest.raises(DataError, match="no class in common"):
        read(study_data, open_subjects([tmp_path / "trams.safetensors"], None, CPU))
    with pytest.raises(DataError, match="has no object of `car`, `bus`"):
        read(table, subjects)
