"""A detector that `dh export` wrote, run by ONNX Runtime. No torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dhcli.config.detecting import (
    AS_CONFIGURED,
    DetectOptions,
    check_gate,
    check_nms,
    lowest_score,
)
from dhcli.config.heads import ReadOut, choose_read_out
from dhcli.config.schema import Config, Detr
from dhcli.data.loading.pictures import Pictures
from dhcli.errors import ConfigError, DhError, ModelError
from dhcli.metrics.operating import read_points
from dhcli.runtime.runner import Found
from dhcli.weights.model_file import Description, ModelHeader, parse_description
from dhcli.weights.recognise import look_at, read_head

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INPUTS = ["pixels", "size", "original"]
OUTPUTS = ["boxes", "scores", "labels"]
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
EXPORT_AGAIN = "export the model again"


class _Place(NamedTuple):
    """A kind of device of PROVIDERS, and which of them; None: the first."""

    kind: str
    number: int | None = None

    def __str__(self) -> str:
        return self.kind if self.number is None else f"{self.kind}:{self.number}"

    def provider(self) -> str | tuple[str, dict[str, int]]:
        """What a session takes as its provider."""
        name = PROVIDERS[self.kind]
        return name if self.number is None else (name, {"device_id": self.number})


class OnnxRunner:
    """See `Runner`. Thresholds and limits are those it was exported with, or stricter ones."""

    usual_batch = 1  # the graph takes one picture

    def __init__(self, session: InferenceSession, about: Description, device: str) -> None:
        self.session = session
        self.config, self.classes, self.category_ids = about[:3]
        self.place = f"ONNX Runtime on {device}"
        self.precision = "fp32"
        self.divisor = graph_divisor(self.config)
        self.lines: list[str] = []
        self.points = read_points(about.metadata)
        self._kind = np.float32 if "float" in session.get_inputs()[0].type else np.uint8

    @classmethod
    def open(cls, path: Path, options: DetectOptions = AS_CONFIGURED) -> OnnxRunner:
        """The detector of the file `path`.

        Raises ModelError where the file is not one that `dh export` wrote, ConfigError where the
        device or precision of `options` cannot be had.
        """
        _check_can_run(path)
        import onnxruntime

        wanted = _choose_device(options.device, onnxruntime.get_available_providers())
        if options.precision not in ("fp32", "auto"):
            what = f"an exported file runs in fp32, not in {options.precision}"
            raise ConfigError(what, where="--precision", hint="give the model file instead")
        session, about = _open(path, wanted)
        place = _place_of(session, wanted, options.device)
        if [one.name for one in session.get_inputs()] != INPUTS:
            raise ModelError("was exported by another version of dh", where=path, hint=EXPORT_AGAIN)
        check_gate(about.config.model, options.gate)
        check_nms(about.config.model, options)
        return cls(session, about._replace(config=options.sized(about.config)), str(place))

    def read_outs(self) -> list[ReadOut]:
        """The one it was exported with."""
        return [choose_read_out(self.config.model, None, None)]

    def detect(
        self, pictures: Pictures, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Found]]:
        """See `Runner`. Raises ConfigError where `options` ask for what the file does not hold."""
        self._check(options)
        rule = options.over(self.config.model.detect)
        most = None if options.most is None else rule.max_detections
        asked = options.threshold is not None
        least = lowest_score(self.config.model, options) if asked else -np.inf
        found = []
        for pixels, size, original in zip(
            pictures.pixels, pictures.sizes, pictures.originals, strict=True
        ):
            values = np.rint(pixels) if self._kind == np.uint8 else pixels
            layout = np.ascontiguousarray(values.astype(self._kind).transpose(2, 0, 1)[None])
            inputs = dict(zip(INPUTS, (layout, size, original), strict=True))
            boxes, scores, labels = self.session.run(OUTPUTS, inputs)
            kept = np.flatnonzero(scores > least)[:most]
            found.append(Found(boxes[kept], scores[kept], labels[kept]))
        return [found]

    def _check(self, options: DetectOptions) -> None:
        held = self.config.model.detect
        own = self.read_outs()
        beyond = {
            "--scores or --boxes": options.read_outs is not None and list(options.read_outs) != own,
            "--gate": options.gate not in (None, getattr(held, "gate", None)),
            "another --nms": options.nms not in (None, "hard"),
            "another NMS threshold": options.nms_threshold
            not in (None, getattr(held, "nms_threshold", None)),
            "another --across-classes": options.across_classes
            not in (None, getattr(held, "across_classes", None)),
            f"a score threshold below its {held.score_threshold:g}": (
                options.threshold is not None and options.threshold < held.score_threshold
            ),
            f"more than its {held.max_detections} detections per image": (
                options.most is not None and options.most > held.max_detections
            ),
        }
        for what, asked in beyond.items():
            if asked:
                hint = "give the model file instead"
                raise ConfigError(f"an exported file cannot do {what}", hint=hint)


def read_exported(path: Path) -> ModelHeader:
    """What the file `path` says about itself, which of its tensors is nothing.

    Raises ModelError where it is not one that `dh export` wrote.
    """
    _check_can_run(path)
    _, about = _open(path, _Place("cpu"), as_it_is=True)
    return ModelHeader(*about, shapes={})


def _check_can_run(path: Path) -> None:
    """That there is a file at `path`, and the package to run it."""
    read_head(path, absent="`dh export model.safetensors` writes such files")
    if find_spec("onnxruntime") is None:
        hint = "pip install 'dhcli[export]'"
        raise DhError("an exported file needs onnxruntime to run", where=path, hint=hint)


def _open(
    path: Path, place: _Place, *, as_it_is: bool = False
) -> tuple[InferenceSession, Description]:
    """The graph, made fast unless it is wanted `as_it_is`, and what dh wrote beside it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if as_it_is:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[place.provider()])
    except Exception as error:  # the runtime has exceptions of its own for damaged files
        what = f"cannot be opened by ONNX Runtime: it is {look_at(path)}"
        raise ModelError(what, where=path, hint=EXPORT_AGAIN) from error
    text = session.get_modelmeta().custom_metadata_map.get("dh")
    if text is None:
        what = "is an ONNX file without the description that dh adds"
        raise ModelError(what, where=path, hint="only files written by `dh export` can be run")
    return session, parse_description(text, path)


def graph_step(config: Config) -> int:
    """Height and width that an exported graph can take are multiples of this: for a pyramid, 32."""
    return 1 if isinstance(config.model, Detr) else 32


def graph_divisor(config: Config) -> int:
    """Height and width that it is given are: padded as in training, and for the graph."""
    return int(np.lcm(graph_step(config), config.input.pad_to()))


def _choose_device(name: str, providers: list[str]) -> _Place:
    able = [kind for kind, provider in PROVIDERS.items() if provider in providers]
    kind, colon, number = (able[0] if name == "auto" else name).partition(":")
    hint = f"there are: {', '.join(able)}"
    if colon and not (number.isascii() and number.isdigit()):
        raise ConfigError(f"unknown device `{name}`", where="--device", hint=hint)
    if kind not in able or (kind == "cpu" and int(number or 0)):
        raise ConfigError(f"ONNX Runtime has no `{name}` here", where="--device", hint=hint)
    return _Place(kind, int(number) if number and kind != "cpu" else None)


def _place_of(session: InferenceSession, wanted: _Place, name: str) -> _Place:
    """Where `session` runs; ConfigError if not on the device that `name` asks for.

    Of a GPU that it cannot use the runtime takes the first one, or the CPU, and goes on.
    """
    found = session.get_provider_options().get(PROVIDERS[wanted.kind])
    if found is not None and int(found.get("device_id", 0)) == (wanted.number or 0):
        return wanted
    if name == "auto":
        return _Place("cpu")
    what = f"ONNX Runtime cannot use `{name}` here"
    raise ConfigError(what, where="--device", hint="`--device auto` takes what it can use")
