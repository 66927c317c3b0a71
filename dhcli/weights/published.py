"""torchvision's published detectors as model files: `torchvision:NAME` in the place of a path."""

from __future__ import annotations

from pathlib import Path

from torchvision.models import get_model_weights

from dhcli.config.load import config_from_dict
from dhcli.config.schema import FACTS
from dhcli.errors import ModelError, suggest
from dhcli.models.build import describe_detector
from dhcli.models.contract import Detector
from dhcli.models.state import is_counter
from dhcli.weights.model_file import ModelFile
from dhcli.weights.plain_file import read_plain
from dhcli.weights.pretrained import fetch_published
from dhcli.weights.recognise import PUBLISHED
from dhcli.weights.transfer import transfer

NO_EPSILON = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""Whose published weights learned with nothing added to the variance in batch norm."""
NOTHING = "N/A"
"""What torchvision calls an id of COCO's that names nothing."""
OTHERWISE = "copy {file} there from a machine with a network"


def is_published(path: Path) -> bool:
    """Whether `path` is the name of a published detector."""
    return str(path).startswith(PUBLISHED)


def fetch_detector(path: Path) -> Path:
    """The file of the detector that `path` names, from torch.hub's cache or the net.

    Raises ModelError where torchvision has none of that name, or the file cannot be had.
    """
    name = str(path).removeprefix(PUBLISHED)
    if name not in FACTS:
        hint = suggest(name, list(FACTS))
        raise ModelError("is not a detector of torchvision's", where=path, hint=hint)
    url = get_model_weights(name)["COCO_V1"].url
    return fetch_published(url, f"torchvision's COCO weights of {name}", OTHERWISE)


def read_published(path: Path) -> ModelFile:
    """The detector that `path` names, of COCO's 80 classes; the rows of ids without one go.

    Raises ModelError as `fetch_detector` does, and where the file is of another network.
    """
    file = fetch_detector(path)
    name = str(path).removeprefix(PUBLISHED)
    epsilon = {"bn_epsilon": 0.0} if name in NO_EPSILON else {}
    model = {"kind": "torchvision", "name": name, "backbone": epsilon}
    about = {"name": name, "about": "a detector of torchvision's, trained on COCO"}
    config = config_from_dict({**about, "model": model}, "what torchvision publishes")
    slots = tuple(get_model_weights(name)["COCO_V1"].meta["categories"])
    ids = tuple(i for i, slot in enumerate(slots) if slot != NOTHING and i)
    classes = tuple(slots[i] for i in ids)
    ours = describe_detector(config, len(classes)).to_empty(device="cpu")
    first = any(one.background == "first" for one in ours.predictors().values())
    known = slots[1:] if first else slots  # without a background, id 0 has rows like a class
    theirs = describe_detector(config, len(known))
    _load(theirs, file)
    source = ModelFile(config, known, tuple(range(len(known))), theirs.state_dict())
    state, _ = transfer(source, ours, classes, {})
    origin = {"layout": "torchvision", "file": file.name, "notes": []}
    return ModelFile(config, classes, ids, state, {"origin": origin})


def _load(detector: Detector, file: Path) -> None:
    """Put a file's tensors in the place of those of `detector`, older names of them too."""
    own = detector.state_dict()
    state = read_plain(file).state
    state = {name: x for name, x in state.items() if name in own or not is_counter(name)}
    try:
        detector.load_state_dict(state, assign=True)
    except RuntimeError as error:
        what = f"does not fit the network: {str(error).splitlines()[-1].strip()}"
        raise ModelError(what, where=file, hint="fetch it again") from error
