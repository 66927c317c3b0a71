"""torchvision's own Faster R-CNN beside Double-Head-Ext: same data, image size and iterations.

    .venv/bin/python benchmarks/single_head.py --data ../shared/data/bccd --preset small --seed 0 \
        --out /tmp/single [--set train.schedule.length=8]

torchvision's model on the preset's backbone is trained by dh's own loop: the same images in the
same order, optimiser, learning rates and number of iterations. Backbone, anchor sizes and the
numbers of proposals and samples are the preset's, all else is torchvision's own: a pyramid of 256
channels, two fully connected layers of 1024, its matching, losses and initial values.
The best model on `val` is measured on `--eval-split`; the twelve COCO numbers are printed as JSON.
`--resume` goes on with the run in `--out`, as `dh train --resume` does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from dhcli.cli.env import describe_machine
from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.load import load_config
from dhcli.config.schema import Config
from dhcli.data.formats import read_dataset
from dhcli.data.loading.loader import EvalLoader
from dhcli.inference.evaluate import detect_tables
from dhcli.metrics.coco import coco_ap
from dhcli.models.backbones.resnet import ResNetFeatures
from dhcli.models.contract import Detector
from dhcli.ops.batch import Detections, ImageBatch, Target
from dhcli.report.console import err
from dhcli.report.training import choose_display
from dhcli.runtime.device import choose_device
from dhcli.runtime.eager import EagerRunner
from dhcli.training.data import load_data
from dhcli.training.journal import Journal
from dhcli.training.loop import TrainingResult
from dhcli.training.resume import resume
from dhcli.training.run import Session, start_run
from dhcli.training.run_folder import CONFIG
from dhcli.training.step import seed_all
from dhcli.weights.model_file import read_model


class SingleHead(Detector):
    """torchvision's FasterRCNN behind the contract."""

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        settings, pixels = config.model.backbone, config.input
        backbone = ResNetFeatures(settings.name, settings.norm, settings.frozen_stages)
        layers = {f"layer{i}": str(i - 1) for i in (1, 2, 3, 4)}
        pyramid = BackboneWithFPN(backbone, layers, backbone.channels, 256)
        anchors = config.model.anchors
        self.model = FasterRCNN(
            pyramid,
            classes + 1,
            min_size=pixels.min_size,
            max_size=pixels.max_size,
            image_mean=[value / 255 for value in pixels.mean],
            image_std=[value / 255 for value in pixels.std],
            rpn_anchor_generator=AnchorGenerator(
                tuple((int(size),) for size in anchors.sizes), (anchors.ratios,) * 5
            ),
            rpn_pre_nms_top_n_train=config.model.rpn.pre_nms_train,
            rpn_pre_nms_top_n_test=config.model.rpn.pre_nms_test,
            rpn_post_nms_top_n_train=config.model.rpn.proposals_train,
            rpn_post_nms_top_n_test=config.model.rpn.proposals_test,
            rpn_batch_size_per_image=config.model.rpn.samples,
            box_batch_size_per_image=config.model.head.samples,
        ).to(memory_format=torch.channels_last)

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        self.model.train()
        wanted = [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets]
        losses: dict[str, Tensor] = self.model(_split(images), wanted)
        return losses

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        self.model.eval()
        found = []
        for result, size, original in zip(
            self.model(_split(images)), images.sizes, images.originals, strict=True
        ):
            scale = (original / size).flip(0).repeat(2)
            boxes = result["boxes"] * scale
            found.append(Detections(boxes, result["scores"], result["labels"] - 1))
        return [found]


def _split(images: ImageBatch) -> list[Tensor]:
    """The images without their padding, in 0…1 as torchvision takes them."""
    pairs = zip(images.pixels, images.sizes.tolist(), strict=True)
    return [pixels[:, :height, :width] / 255 for pixels, (height, width) in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--eval-split", default="test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    device = choose_device(options.device)
    journal = Journal(choose_display(err, live=False))
    session = Session("single_head", "", describe_machine(), device, journal, options.out)
    begun = time.perf_counter()
    outcome = _train(options, session)
    seconds = time.perf_counter() - begun
    best = read_model(outcome.run.path / "best.safetensors")
    model = SingleHead(best.config, len(best.classes))
    model.load_state_dict(best.state)
    truth = read_dataset(options.data).split(options.eval_split)
    truth = truth.with_classes(best.classes, others=best.config.data.others)
    about = (best.config, best.classes, best.category_ids)
    runner = EagerRunner(model.to(device).eval(), *about, device)
    loader = EvalLoader(truth, best.config.input, batch_size=1, workers=0)
    [found] = detect_tables(runner, truth, loader)
    print(json.dumps({"train_seconds": round(seconds), **coco_ap(truth, found).stats}))


def _train(options: argparse.Namespace, session: Session) -> TrainingResult:
    if options.resume:
        config = load_config(file=options.out / CONFIG, overrides=options.set).config
        return resume(options.out, config, session, SingleHead)  # type: ignore[arg-type]
    data = json.dumps(str(options.data))
    settings = [f"data.train={data}", f"train.seed={options.seed}", *options.set]
    config = load_config(options.preset, overrides=settings).config
    images = load_data(config.data, config.train.seed, session.journal)
    seed_all(config.train.seed)
    model = SingleHead(config, len(images.train.classes))
    return start_run(config, model, images, session)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
