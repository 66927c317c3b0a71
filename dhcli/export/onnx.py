"""Export to ONNX: the whole detector in standard operators, compared with torch before it stays."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.export import Dim

from dhcli.atomic import atomic_write
from dhcli.config.detecting import DetectOptions, check_nms
from dhcli.config.schema import Config, Dense, Detr, Input, Queries, TwoStage
from dhcli.config.schema.base import Section
from dhcli.data.io.image import Pixels, Values, read_image
from dhcli.data.loading.loader import collate_images
from dhcli.data.loading.transforms import resize, resized_size
from dhcli.errors import ConfigError, DhError, ModelError
from dhcli.export.graph import DetectorGraph
from dhcli.models.contract import Detector
from dhcli.ops.batch import Detections, ImageBatch
from dhcli.runtime.eager import restore_detector
from dhcli.runtime.onnx import INPUTS, OUTPUTS, graph_divisor, graph_step
from dhcli.weights.model_file import ModelFile, description

if TYPE_CHECKING:
    from onnx import ModelProto

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSETS = range(18, 22)
"""From the first that torch's exporter writes to the last whose RoiAlign ONNX Runtime has."""
EXAMPLE = (160, 224)
"""Width and height of the picture that is traced."""
COARSEST = 128
"""Pixels between the cells of the coarsest level, P7."""
BOX_TOLERANCE = 0.05
"""Pixels of the input that a side of a box may differ."""
SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """How the detections of one picture agree between torch and ONNX Runtime.

    size        width, height of the picture as the network sees it
    torch, onnx numbers of detections
    same        detections that both have, within the tolerances; the programs round differently,
                which decides between overlapping boxes that stand at the threshold of NMS
    box, score  largest differences among these, in pixels of the input and in score
    """

    size: tuple[int, int]
    torch: int
    onnx: int
    same: int
    box: float
    score: float

    @property
    def good(self) -> bool:
        """Whether they agree, but for one in fifty, or one where there are ten or more."""
        most = max(self.torch, self.onnx)
        return most - self.same <= (math.ceil(most / 50) if most >= 10 else 0)


def export_onnx(
    model: ModelFile,
    out: Path,
    *,
    opset: int = 20,
    images: Sequence[Path] = (),
    nms: Literal["hard"] | None = None,
    begin: Callable[[], None] = lambda: None,
) -> list[Agreement]:
    """Write `model` to `out` as ONNX if ONNX Runtime and torch agree; say how they agree.

    With `nms` in place of the model's own; ONNX has no Soft-NMS. `begin` is called once it is known
    that the model can be exported, before what takes long.

    Compared on `images`, else on drawn pictures of three sizes. Where one of the returned rows is
    not `good`, nothing was written. Raises DhError where the model cannot be exported, or an image
    cannot be read.
    """
    _require_packages()
    if opset not in OPSETS:
        what = f"must lie in {OPSETS[0]} … {OPSETS[-1]}, got {opset}"
        raise ConfigError(what, where="--opset", hint="20 suits most runtimes")
    if nms is not None:
        model = _with_nms(model, nms)
    if obstacle := _obstacle(model.config.model):
        hint = (
            "`--nms hard` writes it with hard NMS"
            if "NMS" in obstacle
            else "`dh predict` runs the model"
        )
        raise ModelError(f"{obstacle} cannot be exported", hint=hint)
    pictures = list(_pictures(model.config, images))  # one that cannot be read is told at once
    begin()
    detector = restore_detector(model, torch.device("cpu"))
    proto = build_onnx(detector, model, opset)
    content = proto.SerializeToString()
    rows = compare(content, detector, pictures)
    if all(row.good for row in rows):
        with atomic_write(out) as file:
            file.write(content)
    return rows


def _with_nms(model: ModelFile, nms: Literal["hard"]) -> ModelFile:
    """The same model with another NMS, where its detector has a choice of it."""
    section = model.config.model
    options = DetectOptions(nms=nms)
    check_nms(section, options)
    section = section.model_copy(update={"detect": options.over(section.detect)})
    return replace(model, config=model.config.model_copy(update={"model": section}))


def _obstacle(model: Section) -> str | None:
    """What of a detector no operator of ONNX does; None where there is nothing."""
    if isinstance(model, Queries | Dense | Detr):
        return None
    if not isinstance(model, TwoStage):
        return f"a detector of kind `{getattr(model, 'kind', '')}`"
    if any(branch.roi.kind == "disentangled" for branch in model.head.branches):
        return "deformable pooling (`roi.kind: disentangled`)"
    names = {"soft": "Soft-NMS", "guided": "IoU-guided NMS"}
    kind = model.detect.nms.kind
    return f"{names[kind]} (`model.detect.nms.kind: {kind}`)" if kind in names else None


def build_onnx(detector: Detector, model: ModelFile, opset: int) -> ModelProto:
    """The detector as an ONNX model of any height and width, multiples of `graph_step`."""
    from dhcli.export.onnx_operators import translations

    step = graph_step(model.config)
    least = COARSEST // step + 1  # one cell would be another graph
    free = {2: step * Dim("rows", min=least), 3: step * Dim("columns", min=least)}
    graph = DetectorGraph(detector).eval()
    picture = draw_test_picture(*EXAMPLE, seed=0)
    example = _batch(_as_input(picture, model.config.input), step)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            arguments = (example.pixels, example.sizes[0], example.sizes[0])
            program = torch.export.export(
                graph, arguments, dynamic_shapes=(free, None, None), strict=False
            )
            exported = torch.onnx.export(
                program,
                opset_version=opset,
                output_names=OUTPUTS,
                custom_translation_table=translations(),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise DhError(f"torch's exporter failed: {reason}", where=f"opset {opset}") from error
    assert exported is not None
    return _finish(exported.model_proto, model)


def compare(content: bytes, detector: Detector, pictures: Iterable[ImageBatch]) -> list[Agreement]:
    """Run the same pictures through torch and ONNX Runtime. `pictures` hold one image each."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rows = []
    for picture in pictures:
        batch = ImageBatch(picture.pixels, picture.sizes, picture.sizes)
        values = (batch.pixels, batch.sizes[0], batch.sizes[0])
        inputs = {name: value.numpy() for name, value in zip(INPUTS, values, strict=True)}
        found = session.run(OUTPUTS, inputs)
        with torch.inference_mode():
            [[expected]] = detector.detect(batch)
        height, width = batch.sizes[0].tolist()
        rows.append(agree((width, height), expected, found))
    return rows


def agree(size: tuple[int, int], expected: Detections, found: Sequence[NDArray[Any]]) -> Agreement:
    """Pair the detections of torch with those of ONNX Runtime (boxes, scores, labels)."""
    boxes, scores, labels = found
    box = np.abs(expected.boxes.numpy()[:, None] - boxes[None]).max(axis=2, initial=0)
    score = np.abs(expected.scores.numpy()[:, None] - scores[None])
    same_class = expected.labels.numpy()[:, None] == labels[None]
    pairs = same_class & (box <= BOX_TOLERANCE) & (score <= SCORE_TOLERANCE)  # (torch, onnx)
    same = int(min(pairs.any(axis=1).sum(), pairs.any(axis=0).sum()))
    nearest = np.where(pairs, box, np.inf).argmin(axis=1) if pairs.size else np.zeros(0, int)
    chosen = np.flatnonzero(pairs.any(axis=1))
    return Agreement(
        size,
        len(expected),
        len(boxes),
        same,
        float(box[chosen, nearest[chosen]].max(initial=0)),
        float(score[chosen, nearest[chosen]].max(initial=0)),
    )


def _pictures(config: Config, images: Sequence[Path]) -> Iterable[ImageBatch]:
    input, divisor = config.input, graph_divisor(config)
    if images:
        for path in images:
            image = read_image(path, upright=input.exif, depth=input.depth)
            size = resized_size(image.shape[1], image.shape[0], input)
            yield _batch(resize(image, size, input.interpolation), divisor)
        return
    sizes = [resized_size(4, 3, input), resized_size(3, 4, input)]
    sizes.append((max(1, input.min_size // 2), max(1, input.min_size * 3 // 5)))
    for seed, (width, height) in enumerate(sizes):
        yield _batch(_as_input(draw_test_picture(width, height, seed=seed), input), divisor)


def draw_test_picture(width: int, height: int, *, seed: int) -> Pixels:
    """A picture to detect on where there is none: coloured shapes on noise, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (max(1, height // 16), max(1, width // 16), 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for number in range(12):
        centre = rng.random(2) * (width, height)
        half = rng.uniform(0.03, 0.2, 2) * min(width, height)
        corners = [*(centre - half), *(centre + half)]
        colour = tuple(rng.integers(0, 256, 3).tolist())
        (draw.ellipse if number % 2 else draw.rectangle)(corners, fill=colour, outline="black")
    return np.asarray(picture)


def _batch(image: Values, divisor: int) -> ImageBatch:
    return collate_images([image], [image.shape[:2]], divisor)


def _as_input(image: Values, input: Input) -> Values:
    """Pixels of the kind that resizing leaves: rounded, unless `float` resizes them."""
    return image.astype(np.float32 if input.interpolation == "float" else np.uint8)


def _finish(proto: ModelProto, model: ModelFile) -> ModelProto:
    """Name the free sizes, drop the exporter's notes (paths of this machine), say what it is."""
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        value.ClearField("metadata_props")
    shape = next(value for value in proto.graph.input if value.name == "pixels")
    for axis, name in ((2, "height"), (3, "width")):
        shape.type.tensor_type.shape.dim[axis].dim_param = name
    for value in proto.graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = "detections"
    proto.doc_string = DetectorGraph.__doc__ or ""
    input = model.config.input
    about = {
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "category_ids": json.dumps(model.category_ids),
        "preprocessing": json.dumps(
            {
                "min_size": input.min_size,
                "max_size": input.max_size,
                "rounding": input.resize,
                "pad_to_multiple_of": graph_divisor(model.config),
                "interpolation": input.interpolation,
                "exif": input.exif,
                "depth": input.depth,
                "channels": "rgb, 0-255; order, mean and deviation are in the graph",
            }
        ),
        "dh": _public(model),
    }
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    return proto


def _public(model: ModelFile) -> str:
    """What describes `model`, without the paths of the machine that trained it."""
    settings = model.config.model_dump()
    settings["data"] |= {"train": None, "val": None}
    backbone = settings["model"]["backbone"]
    if backbone.get("weights") not in (None, "imagenet"):
        backbone["weights"] = "none"
    config = Config.model_validate(settings)
    about = dict(model.metadata)
    if "data" in about:
        about["data"] = {key: value for key, value in about["data"].items() if key != "root"}
    return description(config, model.classes, model.category_ids, about)


def _require_packages() -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        what = f"export to ONNX needs {', '.join(missing)}"
        raise DhError(what, hint="pip install 'dhcli[export]'")
