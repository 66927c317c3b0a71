"""The configuration tree: every setting, its default and its meaning, stated once.

Frozen pydantic models that refuse unknown keys. The description of a field is its documentation:
it feeds `docs/configuration.md`, the JSON schema for editors and the error messages. One file per
section; a new kind of a section is a class with its own `kind`, added to the union beside it
(`Model`, `Backbone`, `Neck`, `AnyBranch`).
"""

from dhcli.config.schema.augment import Augment
from dhcli.config.schema.backbone import PVTS, RESNETS, Backbone, Csp, Pvt, ResNet, TimmNet
from dhcli.config.schema.base import ByKind, Section
from dhcli.config.schema.config import Config
from dhcli.config.schema.data import Data
from dhcli.config.schema.dense import Dense, DenseHead, DenseLoss, DetectDense, Priors
from dhcli.config.schema.detect import Detect, DetectBase, DetectBest
from dhcli.config.schema.detr import (
    DeformableHead,
    DetectClipped,
    Detr,
    DetrHead,
    FocalSetLoss,
    SoftmaxSetLoss,
    TransformerHead,
)
from dhcli.config.schema.finetune import Finetune
from dhcli.config.schema.head import (
    FUSIONS,
    AnyBranch,
    BranchBase,
    Buckets,
    ConvBranch,
    Deltas,
    DisentangledRoi,
    FcBranch,
    Head,
    Res5Branch,
    SideBranch,
    predicts,
    read_out_problem,
    readers,
    says_buckets,
)
from dhcli.config.schema.input import Input
from dhcli.config.schema.model import Model, TwoStage
from dhcli.config.schema.neck import (
    Dilated,
    LevelNeck,
    MapNeck,
    Neck,
    NoNeck,
    PathPyramid,
    Pyramid,
)
from dhcli.config.schema.pool import Pool
from dhcli.config.schema.queries import Queries, SetLoss, SparseHead
from dhcli.config.schema.rpn import Anchors, Rpn
from dhcli.config.schema.torchvision import FACTS, TorchVision, TorchVisionBackbone
from dhcli.config.schema.train import Schedule, Train

__all__ = [
    "FACTS",
    "FUSIONS",
    "PVTS",
    "RESNETS",
    "Anchors",
    "AnyBranch",
    "Augment",
    "Backbone",
    "BranchBase",
    "Buckets",
    "ByKind",
    "Config",
    "ConvBranch",
    "Csp",
    "Data",
    "DeformableHead",
    "Deltas",
    "Dense",
    "DenseHead",
    "DenseLoss",
    "Detect",
    "DetectBase",
    "DetectBest",
    "DetectClipped",
    "DetectDense",
    "Detr",
    "DetrHead",
    "Dilated",
    "DisentangledRoi",
    "FcBranch",
    "Finetune",
    "FocalSetLoss",
    "Head",
    "Input",
    "LevelNeck",
    "MapNeck",
    "Model",
    "Neck",
    "NoNeck",
    "PathPyramid",
    "Pool",
    "Priors",
    "Pvt",
    "Pyramid",
    "Queries",
    "Res5Branch",
    "ResNet",
    "Rpn",
    "Schedule",
    "Section",
    "SetLoss",
    "SideBranch",
    "SoftmaxSetLoss",
    "SparseHead",
    "TimmNet",
    "TorchVision",
    "TorchVisionBackbone",
    "Train",
    "TransformerHead",
    "TwoStage",
    "predicts",
    "read_out_problem",
    "readers",
    "says_buckets",
]
