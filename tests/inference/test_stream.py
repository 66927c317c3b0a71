from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.data.io.files import fold
from dhcli.errors import DataError, DhError
from dhcli.inference import stream
from dhcli.inference.locate_images import ImageList, find_images
from dhcli.inference.stream import Kept, Summary, detect_images, drawing
from dhcli.inference.writers import Place, Prediction
from dhcli.runtime.eager import EagerRunner
from dhcli.weights.model_file import ModelFile


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> ImageList:
    """Seven images of two shapes, an empty file and a truncated JPEG among them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        size = (80, 120, 3) if number % 3 else (120, 80, 3)
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=95)
    (folder / "3b.jpg").touch()
    (folder / "5b.jpg").write_bytes((folder / "5.jpg").read_bytes()[:2000])
    return find_images([str(folder)])


def run(
    model: ModelFile,
    photos: ImageList,
    kept: Kept | None = None,
    batch_size: int = 1,
    options: DetectOptions = AS_CONFIGURED,
) -> tuple[list[Prediction], Summary]:
    found: list[Prediction] = []
    runner = EagerRunner.of(model, DetectOptions(device="cpu"))
    summary = detect_images(
        runner, photos, kept or Kept(), [found.append], options=options, batch_size=batch_size
    )
    return found, summary


def test_every_readable_image_comes_in_order_and_the_others_are_named(
    small_model: Callable[..., ModelFile], photos: ImageList
) -> None:
    found, summary = run(small_model("a", "b"), photos)

    assert [one.name for one in found] == [f"{number}.jpg" for number in range(7)]
    assert [one.size for one in found[:2]] == [(80, 120), (120, 80)]
    assert summary.images == 7
    assert [name for name, _ in summary.unreadable] == ["3b.jpg", "5b.jpg"]
    assert summary.unreadable[0][1] == "is an empty file"
    assert summary.counts.total() == sum(map(len, found)) > 0


def test_results_do_not_depend_on_the_batch_size(
    small_model: Callable[..., ModelFile], photos: ImageList
) -> None:
    model = small_model("a", "b")

    alone, _ = run(model, photos, batch_size=1)
    together, summary = run(model, photos, batch_size=3)

    assert [one.name for one in together] == [one.name for one in alone]
    assert [name for name, _ in summary.unreadable] == ["3b.jpg", "5b.jpg"]
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_a_batch_holds_one_shape(
    small_model: Callable[..., ModelFile], photos: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[int] = []
    collate = stream.collate_pictures

    def watch(images, originals, divisor):  # type: ignore[no-untyped-def]
        shapes.append(len({image.shape for image in images}))
        return collate(images, originals, divisor)

    monkeypatch.setattr(stream, "collate_pictures", watch)
    run(small_model("a"), photos, batch_size=4)

    assert set(shapes) == {1}
    assert len(shapes) < 7


def test_boxes_are_in_pixels_of_the_upright_original(
    small_model: Callable[..., ModelFile], photos: ImageList
) -> None:
    found, _ = run(small_model("a"), photos)

    assert max(one.boxes[:, 2].max() / one.size[0] for one in found) == pytest.approx(1, abs=0.02)
    assert all((one.boxes <= [*one.size, *one.size]).all() for one in found)


def test_a_choice_keeps_classes_scores_and_the_best(
    small_model: Callable[..., ModelFile], photos: ImageList
) -> None:
    model = small_model("a", "b", "c")
    every, _ = run(model, photos)
    middle = float(np.median(every[0].scores))

    kept = Kept(top=3, labels=(0, 2), shown=middle)
    found, summary = run(model, photos, kept, options=DetectOptions(threshold=middle))

    for all_of, one in zip(every, found, strict=True):
        wanted = (all_of.scores > middle) & (all_of.labels != 1)
        np.testing.assert_allclose(one.scores, all_of.scores[wanted][:3], atol=1e-6)
    assert max(map(len, found)) == 3
    assert summary.shown == summary.counts


def test_classes_and_scores_of_each_are_chosen_together(
    small_model: Callable[..., ModelFile], photos: ImageList
) -> None:
    model = small_model("a", "b", "c")
    every, _ = run(model, photos)
    least = np.array([0.0, 0.0, float(np.median(every[0].scores))])

    found, _ = run(model, photos, Kept(labels=(0, 2), least=least))

    for all_of, one in zip(every, found, strict=True):
        wanted = (all_of.scores >= least[all_of.labels]) & (all_of.labels != 1)
        np.testing.assert_allclose(one.scores, all_of.scores[wanted], atol=1e-6)


def test_where_nothing_can_be_read_it_is_an_error(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").touch()

    with pytest.raises(DataError, match="no image could be read; the first of 1: is an empty"):
        run(small_model("a"), find_images([str(tmp_path)]))


def test_images_are_decoded_ahead_but_not_without_bound(
    small_model: Callable[..., ModelFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays the same for any number of images: few wait between disk and detector."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    images = ImageList(tmp_path, ["a.png"] * 25)
    lock, begun, done, most = threading.Lock(), 0, 0, 0
    read = stream.read_image

    def counting(path: Path, **settings: Any) -> stream.Pixels:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - done)
        return read(path, **settings)

    def finish(_: Prediction) -> None:
        nonlocal done
        time.sleep(0.002)
        done += 1

    monkeypatch.setattr(stream, "read_image", counting)
    monkeypatch.setattr(stream, "THREADS", 3)
    model = small_model("a")
    options = DetectOptions(threshold=1.0, device="cpu")
    runner = EagerRunner.of(model, options)
    detect_images(runner, images, Kept(), [finish], options=options)

    assert done == 25
    assert 2 <= most <= 1 + 3 + 2


def picture_of(name: str) -> Prediction:
    boxes = np.array([[0.0, 0, 4, 4], [0, 0, 8, 8]])
    pixels = np.zeros((8, 8, 3), np.uint8)
    return Prediction(name, (8, 8), boxes, np.array([0.9, 0.2]), np.array([0, 0]), pixels)


def test_pictures_are_drawn_from_a_score_up_under_their_own_names(tmp_path: Path) -> None:
    drawn: dict[str, int] = {}

    def draw(image: Prediction, classes: object, path: Path) -> None:
        drawn[str(path.relative_to(tmp_path))] = len(image)

    with drawing(Place(tmp_path, ("a",), (1,)), draw, 0.3) as write:
        for name in ("x/1.jpg", "y/1.jpg", "1.PNG", "1.tif"):
            write(picture_of(name))

    assert drawn == {
        "drawn/x/1.jpg": 1,
        "drawn/y/1.jpg": 1,
        "drawn/1.PNG": 1,
        "drawn/1.tif.jpg": 1,
    }


def test_no_picture_takes_the_name_of_another_image(tmp_path: Path) -> None:
    names = ["1.webp", "1.webp.jpg", "2.tif", "2.TIF.JPG", "2.tif_2.jpg", "3.bmp"]
    drawn: list[str] = []

    def draw(_: Prediction, __: object, path: Path) -> None:
        drawn.append(path.name)

    place = Place(tmp_path, ("a",), (1,), taken=frozenset(map(fold, names)))
    with drawing(place, draw, 0.3) as write:
        for name in names:
            write(picture_of(name))

    pictures = ["1.webp_2.jpg", "1.webp.jpg", "2.tif_3.jpg", "2.TIF.JPG", "2.tif_2.jpg"]
    assert sorted(drawn) == sorted([*pictures, "3.bmp.jpg"])


def test_a_picture_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise DhError("no room")

    with (
        pytest.raises(DhError, match="no room"),
        drawing(Place(tmp_path, ("a",), (1,)), fail, 0.3) as write,
    ):
        write(picture_of("1.jpg"))
