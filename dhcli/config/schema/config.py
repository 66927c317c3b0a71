"""The root of the tree."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from dhcli.config.schema.augment import Augment
from dhcli.config.schema.base import AtLeastOne, ByKind, Section
from dhcli.config.schema.data import Data
from dhcli.config.schema.finetune import Finetune
from dhcli.config.schema.input import Input
from dhcli.config.schema.model import Model, TwoStage
from dhcli.config.schema.train import Train


class Config(Section):
    """Everything that decides a result."""

    name: str = "custom"
    """Name of the preset."""
    about: str = ""
    """What it is for, in one line."""
    paper_tables: tuple[AtLeastOne, ...] = ()
    """Tables of the paper that have this preset as a row."""
    paper: dict[str, float] = Field(default_factory=dict)
    """The paper's result for it: AP in percent on COCO val, or on VOC07 test."""
    data: Data = Data()
    input: Input = Input()
    augment: Augment = Augment()
    model: Annotated[Model, ByKind("two_stage")] = TwoStage()
    train: Train = Train()
    finetune: Finetune = Finetune()

    @model_validator(mode="after")
    def _square(self) -> Self:
        asked, pixels = self.augment.needs_square(), self.input
        if asked and (pixels.letterbox is None or pixels.min_size != pixels.max_size):
            what = "needs `input.letterbox`, and `input.min_size` equal to `input.max_size`"
            raise ValueError(f"`augment.{asked}` {what}")
        return self
