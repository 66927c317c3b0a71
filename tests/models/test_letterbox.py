"""`input.letterbox`: a square of one grey that the network sees, and boxes that come back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.load import load_config
from dhcli.config.schema import Config, Input
from dhcli.config.short import resized
from dhcli.data.loading.loader import EvalLoader, TrainLoader, collate_images
from dhcli.data.loading.transforms import resize, resized_size
from dhcli.data.table import make_table
from dhcli.errors import ConfigError
from dhcli.inference.stream import Source, detect_each
from dhcli.models.contract import Detector
from dhcli.models.detector import Pixels
from dhcli.ops.batch import Detections, ImageBatch
from dhcli.runtime.eager import EagerRunner

YOLOX = Input(
    min_size=64,
    max_size=64,
    divisor=1,
    interpolation="cv2",
    channels="bgr",
    mean=(0, 0, 0),
    std=(1, 1, 1),
    letterbox=114,
)


def by_hand(image: NDArray[np.uint8], side: int) -> Tensor:
    """(3, side, side): by one scale into the square, BGR, 114 beside it."""
    height, width = image.shape[:2]
    scale = min(side / width, side / height)
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    square = np.full((side, side, 3), 114, np.float32)
    square[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(square[:, :, ::-1].copy()).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(50, 30), (30, 50), (64, 64), (200, 90), (100, 37)])
def test_an_image_fits_into_the_square_as_yolox_prepares_it(
    size: tuple[int, int], rng: np.random.Generator
) -> None:
    width, height = size
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    fitted = resize(image, resized_size(width, height, YOLOX), "cv2")

    batch = collate_images([fitted], [(height, width)], YOLOX.pad_to())

    assert max(fitted.shape[:2]) == 64
    assert torch.equal(Pixels(YOLOX)(batch)[0], by_hand(image, 64))


def test_what_lies_in_the_padding_of_a_batch_does_not_count() -> None:
    noise = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    noise[..., :20, :30] = 7
    size = torch.tensor([[20, 30]])

    seen = Pixels(YOLOX)(ImageBatch(noise, size, size))

    assert (seen[..., :20, :30] == 7).all()
    assert (seen[..., 20:, :] == 114).all()
    assert (seen[..., 30:] == 114).all()


def test_the_grey_is_there_before_the_normalisation() -> None:
    input = Input(min_size=64, max_size=64, letterbox=114, mean=(14, 0, 0), std=(2, 1, 1))
    size = torch.tensor([[20, 30]])

    seen = Pixels(input)(ImageBatch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), size, size))

    assert seen[0, :, 63, 63].tolist() == [50, 114, 114]


@pytest.mark.parametrize("interpolation", ["cv2", "float"])
def test_every_batch_is_one_square(
    interpolation: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    sizes = [(50, 30), (30, 50), (20, 20), (120, 70)]
    files = [f"{number}.png" for number in range(4)]
    for file, (width, height) in zip(files, sizes, strict=True):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / file)
    none = np.zeros(0)
    table = make_table(tmp_path, files, sizes, [0] * 4, none.reshape(0, 4), none, ["a"])
    input = YOLOX.model_copy(update={"interpolation": interpolation})

    evaluated = list(EvalLoader(table, input, batch_size=4, workers=0))
    training = TrainLoader(table, input, Config().augment, batch_size=2, workers=0, seed=0)
    trained = list(training.epoch(0))

    assert len(evaluated) == 1  # all shapes alike, so that they share a batch
    shapes = {tuple(batch.images.pixels.shape[2:]) for batch in [*evaluated, *trained]}
    assert shapes == {(64, 64)}


class Whole(Detector):
    """Finds the whole of each image, and a box that lies in the grey beside it."""

    def __init__(self, input: Input) -> None:
        super().__init__()
        self.pixels = Pixels(input)
        self.weight = nn.Parameter(torch.zeros(1))

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        x = self.pixels(images)
        assert x.shape[2:] == (64, 64)
        found = []
        for (height, width), (high, wide) in zip(
            images.sizes.tolist(), images.originals.tolist(), strict=True
        ):
            boxes = torch.tensor([[0, 0, width, height], [0, 0, 64, 64]], dtype=torch.float32)
            boxes *= torch.tensor([wide / width, high / height] * 2)
            found.append(Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0])))
        return [found]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_predicted_boxes_are_in_pixels_of_the_image(
    batch_size: int, rng: np.random.Generator
) -> None:
    config = Config(input=YOLOX)
    sizes = [(50, 30), (33, 77), (128, 64)]
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in sizes]
    runner = EagerRunner(Whole(config.input), config, ("a",), (1,), torch.device("cpu"))
    sources = [
        Source(str(number), lambda picture=picture, **_: picture)  # type: ignore[misc]
        for number, picture in enumerate(pictures)
    ]

    seen = list(detect_each(runner, sources, AS_CONFIGURED, batch_size))

    for one, (width, height) in zip(seen, sizes, strict=True):
        np.testing.assert_allclose(one.found.boxes[0], [0, 0, width, height], rtol=1e-6)  # type: ignore[union-attr]
        assert one.found.boxes[1].max() > max(width, height) * 0.99  # type: ignore[union-attr]


def test_its_side_is_a_multiple_of_32_and_the_error_says_so() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(
            "light",
            overrides=["input.letterbox=114", "input.min_size=500", "input.max_size=500"],
        )

    assert str(caught.value).startswith("`input`: `letterbox` needs a max_size that is a multiple")
    assert "got 500" in str(caught.value)


def test_image_size_sets_the_side_of_the_square() -> None:
    square = ["input.letterbox=114", "input.min_size=640", "input.max_size=640"]

    input = load_config("light", overrides=square).config.input

    assert (input.pad_to(), resized(input, 416).pad_to()) == (640, 416)
    assert Input().pad_to() == Input().divisor == 32
