"""The published detectors in plain PyTorch: what `predict.py` and `train_step.py` measure against.

Written down from the two public implementations as a reader of theirs would: contiguous NCHW,
batch norm as a layer of its own, every branch on every proposal, a loop over images. Parameters
have dh's names, so the same state dict loads into both. What is no part of the network (anchors,
box arithmetic, matching and sampling) is dh's own, which can only make the peer faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d, batched_nms, roi_align

from dhcli.config.schema import Config, ConvBranch, FcBranch, predicts
from dhcli.models.two_stage.pool import choose_levels
from dhcli.ops.anchors import cell_anchors, grid_anchors
from dhcli.ops.batch import Detections, ImageBatch, Target
from dhcli.ops.boxes import clip_boxes, decode_boxes, encode_boxes, enlarge_boxes
from dhcli.ops.match import match_boxes, sample_matches

STRIDES = (4, 8, 16, 32, 64)
UNIT = (1.0, 1.0, 1.0, 1.0)


class PlainDetector(nn.Module):
    """Double-Head as MMDetection runs it, or Double-Head-Ext as the authors' code does."""

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        self.config = config
        channels = config.model.neck.channels
        self.backbone = PlainResNet(config.model.backbone.frozen_stages)
        self.neck = nn.ModuleDict(
            {
                "lateral": nn.ModuleList(nn.Conv2d(c, channels, 1) for c in (256, 512, 1024, 2048)),
                "output": nn.ModuleList(
                    nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4)
                ),
            }
        )
        ratios = len(config.model.anchors.ratios)
        self.rpn = nn.ModuleDict(
            {
                "conv": nn.Conv2d(channels, channels, 3, padding=1),
                "cls": nn.Conv2d(channels, ratios, 1),
                "reg": nn.Conv2d(channels, ratios * 4, 1),
            }
        )
        branches = {b.name: PlainBranch(b, channels, classes) for b in config.model.head.branches}
        self.head = nn.ModuleDict({"branches": nn.ModuleDict(branches)})
        pixels = config.input
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)

    def extract(self, images: ImageBatch) -> list[Tensor]:
        """P2 … P6."""
        x = ((images.pixels.contiguous().float() - self.mean) / self.std).contiguous()
        merged = [
            lateral(c) for lateral, c in zip(self.neck["lateral"], self.backbone(x), strict=True)
        ]
        for i in (2, 1, 0):
            size = merged[i].shape[-2:]
            merged[i] = merged[i] + F.interpolate(merged[i + 1], size=size, mode="nearest")
        levels = [conv(x) for conv, x in zip(self.neck["output"], merged, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]

    def detect(self, images: ImageBatch) -> list[Detections]:
        """Detections of each image, both branches on all its proposals."""
        rule, read = self.config.model.detect, self.config.model.head
        levels = self.extract(images)
        proposals = self.propose(self.score_anchors(levels), images.sizes, training=False)
        found = []
        for i, boxes in enumerate(proposals):
            owner = torch.full((len(boxes),), i)
            outputs = {name: self.run(name, levels, boxes, owner) for name in self.branches}
            logits = [out[0] for out in outputs.values() if out[0] is not None]
            scores = logits[0].softmax(1)
            if len(logits) == 2:
                scores = 1 - (1 - scores) * (1 - logits[1].softmax(1))
            deltas = outputs["conv"][1].unflatten(1, (-1, 4))  # (N, K, 4)
            refined = decode_boxes(deltas, boxes[:, None], read.box_std)
            refined = clip_boxes(refined, images.sizes[i])
            scale = (images.originals[i] / images.sizes[i]).flip(0).repeat(2)
            rows, labels = torch.nonzero(scores[:, 1:] > rule.score_threshold, as_tuple=True)
            chosen, score = refined[rows, labels] * scale, scores[rows, labels + 1]
            keep = batched_nms(chosen, score, labels, rule.nms_threshold)[: rule.max_detections]
            found.append(Detections(chosen[keep], score[keep], labels[keep]))
        return found

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The parts of the loss, weighted."""
        levels = self.extract(images)
        output = self.score_anchors(levels)
        with torch.no_grad():
            proposals = self.propose(output, images.sizes, training=True)
        return self.rpn_losses(output, targets) | self.head_losses(levels, proposals, targets)

    @property
    def branches(self) -> nn.ModuleDict:
        """The branches of the head by name."""
        return self.head["branches"]

    def score_anchors(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each level: logits (B, n), deltas (B, n, 4), anchors (n, 4)."""
        config, out = self.config.model.anchors, []
        for x, size, stride in zip(levels, config.sizes, STRIDES, strict=True):
            hidden = F.relu(self.rpn["conv"](x))
            logits = self.rpn["cls"](hidden).permute(0, 2, 3, 1).flatten(1)
            deltas = self.rpn["reg"](hidden).permute(0, 2, 3, 1).reshape(len(x), -1, 4)
            cell = cell_anchors(size, stride, config.ratios, config.convention)
            out.append((logits, deltas, grid_anchors(cell, *x.shape[-2:], stride)))
        return out

    def propose(
        self, output: list[tuple[Tensor, Tensor, Tensor]], sizes: Tensor, *, training: bool
    ) -> list[Tensor]:
        """The proposals (n, 4) of each image."""
        config, kept = self.config.model.rpn, []
        before = config.pre_nms_train if training else config.pre_nms_test
        for i in range(len(sizes)):
            boxes, scores, groups = [], [], []
            for level, (logits, deltas, anchors) in enumerate(output):
                best = logits[i].sort(descending=True).indices[:before]
                boxes.append(decode_boxes(deltas[i][best], anchors[best], UNIT))
                scores.append(logits[i][best].sigmoid())
                groups.append(torch.full_like(best, level))
            box, score = clip_boxes(torch.cat(boxes), sizes[i]), torch.cat(scores)
            real = torch.nonzero((box[:, 2:] > box[:, :2]).all(1)).flatten()
            box, score, group = box[real], score[real], torch.cat(groups)[real]
            keep = batched_nms(box, score, group, config.nms_threshold)
            kept.append((box[keep], score[keep]))
        if not training or config.proposals_per == "image":
            limit = config.proposals_train if training else config.proposals_test
            return [box[:limit] for box, _ in kept]
        every = torch.cat([score for _, score in kept])
        least = every.topk(min(config.proposals_train, len(every))).values[-1]
        return [box[score >= least] for box, score in kept]

    def run(
        self, name: str, levels: Sequence[Tensor], boxes: Tensor, owner: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Logits and deltas of one branch for boxes (N, 4) in images (N,)."""
        branch, pool = self.branches[name], self.config.model.pool
        rois = torch.cat([owner[:, None].float(), enlarge_boxes(boxes, branch.scale)], 1)
        level_of = choose_levels(boxes, STRIDES[:4])
        out = levels[0].new_zeros(len(boxes), levels[0].shape[1], pool.size, pool.size)
        for i in range(4):
            rows = torch.nonzero(level_of == i).flatten()
            if len(rows):
                ratio = pool.sampling_ratio or -1
                out[rows] = roi_align(
                    levels[i], rois[rows], pool.size, 1 / STRIDES[i], ratio, pool.aligned
                )
        return branch(out)

    def rpn_losses(
        self, output: list[tuple[Tensor, Tensor, Tensor]], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Binary cross entropy and smooth L1 of the sampled anchors."""
        config = self.config.model.rpn
        logits = torch.cat([part[0] for part in output], 1)
        deltas = torch.cat([part[1] for part in output], 1)
        anchors = torch.cat([part[2] for part in output])
        cls, reg, count = [], [], 0
        for i, target in enumerate(targets):
            matches = match_boxes(
                anchors,
                target.boxes,
                target.ignore,
                positive_iou=config.positive_iou,
                negative_iou=config.negative_iou,
                best_for_each=True,
            )
            pos, neg = sample_matches(matches, config.samples, config.positive_fraction)
            truth = torch.cat([torch.ones_like(pos), torch.zeros_like(neg)]).float()
            both = logits[i, torch.cat([pos, neg])]
            cls.append(F.binary_cross_entropy_with_logits(both, truth, reduction="sum"))
            goal = encode_boxes(target.boxes[matches[pos]], anchors[pos], UNIT)
            beta = config.smooth_l1_beta
            reg.append(F.smooth_l1_loss(deltas[i, pos], goal, beta=beta, reduction="sum"))
            count += len(truth)
        return {"loss_rpn_cls": sum(cls) / count, "loss_rpn_reg": sum(reg) / count}

    def head_losses(
        self, levels: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Cross entropy and smooth L1 of each branch on the sampled proposals."""
        config, parts = self.config.model.head, []
        for i, (proposed, target) in enumerate(zip(proposals, targets, strict=True)):
            boxes = torch.cat([proposed, target.boxes])
            iou = config.positive_iou
            matches = match_boxes(
                boxes, target.boxes, target.ignore, positive_iou=iou, negative_iou=iou
            )
            pos, neg = sample_matches(matches, config.samples, config.positive_fraction)
            chosen, found = torch.cat([pos, neg]), matches[pos]
            classes = torch.cat([target.labels[found] + 1, torch.zeros_like(neg)])
            goals = torch.cat([target.boxes[found], boxes[neg]])
            parts.append((boxes[chosen], torch.full_like(chosen, i), classes, goals))
        boxes, owner, classes, goals = (torch.cat(column) for column in zip(*parts, strict=True))
        wanted = encode_boxes(goals, boxes, config.box_std)
        rows, losses = torch.nonzero(classes).flatten(), {}
        for branch in config.branches:
            logits, deltas = self.run(branch.name, levels, boxes, owner)
            share = {branch.focus: branch.lambda_}
            if logits is not None:
                weight = branch.omega * share.get("cls", 1 - branch.lambda_)
                losses[f"loss_{branch.name}_cls"] = F.cross_entropy(logits, classes) * weight
            if deltas is not None:
                weight = branch.omega * share.get("reg", 1 - branch.lambda_)
                mine = deltas.unflatten(1, (-1, 4))[rows, classes[rows] - 1]
                beta = config.smooth_l1_beta
                loss = F.smooth_l1_loss(mine, wanted[rows], beta=beta, reduction="sum")
                losses[f"loss_{branch.name}_reg"] = loss / len(classes) * weight
        return losses


class PlainResNet(ResNet):  # type: ignore[misc]
    """ResNet-50, its batch norms frozen; C2 … C5."""

    def __init__(self, frozen_stages: int) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], norm_layer=FrozenBatchNorm2d)
        del self.fc, self.avgpool
        frozen = [self.conv1, self.layer1, self.layer2, self.layer3, self.layer4]
        for part in frozen[:frozen_stages]:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        levels = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            levels.append(x)
        return levels


class PlainBranch(nn.Module):
    """A trunk and its predictors: pooled RoIs (N, C, 7, 7) to logits and deltas."""

    def __init__(self, config: FcBranch | ConvBranch, channels: int, classes: int) -> None:
        super().__init__()
        self.scale, width = config.roi_scale, config.width
        if isinstance(config, ConvBranch):
            self.trunk = _conv_trunk(config, channels)
        else:
            first, second = nn.Linear(channels * 49, width), nn.Linear(width, width)
            self.trunk = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())
        self.cls = nn.Linear(width, classes + 1) if predicts(config, "cls") else None
        self.reg = nn.Linear(width, classes * 4) if predicts(config, "reg") else None

    def forward(self, pooled: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x = self.trunk(pooled)
        return (None if self.cls is None else self.cls(x)), (
            None if self.reg is None else self.reg(x)
        )


def _conv_trunk(config: ConvBranch, channels: int) -> nn.Sequential:
    width, inner = config.width, config.width // 4
    blocks: list[nn.Module] = [Widening(channels, width)]
    for i in range(config.residual - 1):
        blocks += [NonLocal(width, config.non_local_groups)] if i < config.non_local else []
        blocks.append(
            Residual(
                _conv_bn(width, inner, 1), _conv_bn(inner, inner, 3), _conv_bn(inner, width, 1)
            )
        )
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _conv_bn(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Residual(nn.Module):
    """Convolutions, each with batch norm, ReLU between; added to the input, ReLU."""

    def __init__(self, *layers: list[nn.Module]) -> None:
        super().__init__()
        parts = [part for layer in layers for part in (*layer, nn.ReLU(inplace=True))]
        self.main = nn.Sequential(*parts[:-1])

    def shortcut_of(self, x: Tensor) -> Tensor:
        """What is added."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.main(x) + self.shortcut_of(x))


class Widening(Residual):
    """256 to 1024 channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(_conv_bn(channels, channels, 3), _conv_bn(channels, width, 1))
        self.shortcut = nn.Sequential(*_conv_bn(channels, width, 1))

    def shortcut_of(self, x: Tensor) -> Tensor:
        return self.shortcut(x)


class NonLocal(nn.Module):
    """The authors' grouped non-local block: a loop over groups of consecutive channels."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.theta, self.phi, self.g = (nn.Conv2d(width, width // 2, 1) for _ in range(3))
        self.out = nn.Sequential(nn.Conv2d(width // 2, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        parts = [conv(x).chunk(self.groups, 1) for conv in (self.theta, self.phi, self.g)]
        out = []
        for theta, phi, g in zip(*parts, strict=True):
            f = theta.flatten(2).permute(0, 2, 1) @ phi.flatten(2) / (height * width)
            y = f @ g.flatten(2).permute(0, 2, 1)
            out.append(y.permute(0, 2, 1).reshape(n, -1, height, width))
        return F.relu_(self.out(torch.cat(out, 1)) + x)
