"""What every part of the tree is made of: sections, kinds of numbers, and choices by `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=1, le=20_000)]
"""Of an image, in pixels."""
Channels = Annotated[int, Field(ge=1, le=4096)]
AtLeastOne = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the tree: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    @classmethod
    def implied(cls, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the whole tree that come with what a layer has `stated` in this section.

        They stand below the layer's own, and above everything before it; most bring none.
        """
        return {}

    def describe(self) -> list[tuple[str, str]]:
        """What `dh info` says of it, as label and text; nothing unless a section says more."""
        return []


@dataclass(frozen=True)
class OrWord:
    """Marks a list, or a number, in whose place a word may stand.

    `Annotated[tuple[X, ...] | Literal["word"], OrWord("word")]`. A plain union would name its
    members in the place of an error. `instead` is what the word stands for, in words.
    """

    word: str
    instead: str = "a list"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            self._check,
            handler.generate_schema(get_args(source)[0]),
            serialization=core_schema.simple_ser_schema("any"),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"const": self.word, "type": "string"}]}

    def _check(self, value: Any, as_other: core_schema.ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, str) and value != self.word:
            raise PydanticKnownError(
                "literal_error", {"expected": f"{self.instead} or '{self.word}'"}
            )
        return value if value == self.word else as_other(value)


@dataclass(frozen=True)
class ByKind:
    """Marks a choice of sections that are told apart by their `kind`.

    `Annotated[A | B, ByKind("a")]`, or `Annotated[A, ByKind("a")]` for a choice of one, to which
    others may be added. `default` is the kind of a mapping that states none; None: it must.
    """

    default: str | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {kind: handler.generate_schema(one) for kind, one in by_kind(source).items()}
        first = next(iter(choices))
        return core_schema.tagged_union_schema(choices, lambda value: self._kind_of(value, first))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """With a default, a file may write some keys of any kind without stating which."""
        made = handler(schema)
        if self.default is not None and "oneOf" in made:
            made["anyOf"] = made.pop("oneOf")
        return made

    def _kind_of(self, value: Any, first: str) -> str | None:
        """The `kind` that a mapping or a section states. What is neither is refused by `first`."""
        if isinstance(value, dict):
            return str(value["kind"]) if "kind" in value else self.default
        return str(getattr(value, "kind", first))


def require_epsilon(norm: str, bn_epsilon: float) -> None:
    """Raise ValueError where batch norm that is trained could divide by zero."""
    if norm == "bn" and not bn_epsilon:
        raise ValueError("`bn_epsilon` must lie above 0 with `norm: bn`")


def sections_in(annotation: Any) -> list[type[Section]]:
    """The section classes that a field may hold, itself or as items of its list."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) is Literal:
        return []
    return [found for part in get_args(annotation) for found in sections_in(part)]


def by_kind(annotation: Any) -> dict[str, type[Section]]:
    """The section classes of a choice, by the `kind` that each states."""
    return {kind: one for one in sections_in(annotation) for kind in kinds_of(one)}


def kinds_of(section: type[Section]) -> tuple[str, ...]:
    """What `section` may state as its `kind`; () where it has no such key."""
    field = section.model_fields.get("kind")
    return get_args(field.annotation) if field else ()
