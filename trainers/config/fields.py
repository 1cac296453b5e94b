"""What every section of a configuration is made of: strict models, bounded field types, marks for the identity."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _integral(value: object) -> object:
    """3.0 is accepted where an int is asked for: the spelling of a number never matters. 3.5 and True are not."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def as_tuple(value: object) -> object:
    """YAML and JSON know lists only; a lone number stands for a list of one."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value,)
    return value


def names_as_tuple(value: object) -> object:
    """The same for names."""
    return (value,) if isinstance(value, str) else as_tuple(value)


Int = Annotated[int, BeforeValidator(_integral)]
PositiveInt = Annotated[int, BeforeValidator(_integral), Field(ge=1)]
NaturalInt = Annotated[int, BeforeValidator(_integral), Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
#: A share of a whole that cannot be empty.
Share = Annotated[float, Field(gt=0, le=1)]
#: An exponential moving average keeps this share of the old value.
Momentum = Annotated[float, Field(ge=0, le=1)]
#: Largest over smallest class, the papers' IF.
Imbalance = Annotated[float, Field(ge=1)]
IntTuple = Annotated[tuple[PositiveInt, ...], BeforeValidator(as_tuple), Field(min_length=1)]
FloatTuple = Annotated[tuple[PositiveFloat, ...], BeforeValidator(as_tuple), Field(min_length=1)]
ShareTuple = Annotated[tuple[Share, ...], BeforeValidator(as_tuple), Field(min_length=1)]
AreaRange = Annotated[tuple[PositiveFloat, PositiveFloat], BeforeValidator(as_tuple)]
Jitter = Annotated[
    tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat], BeforeValidator(as_tuple)
]


def added_later(default: Any, *, neutral: Any, **kwargs: Any) -> Any:
    """A field added after the first release, left out of the identity while it equals ``neutral``.

    Args:
        default: the value of a run that does not name the option.
        neutral: the value that computes what was computed before the option existed. Never change it.
        kwargs: passed to :func:`pydantic.Field`.
    """
    return Field(default, json_schema_extra={"neutral": neutral}, **kwargs)


def outside_identity(default: Any, **kwargs: Any) -> Any:
    """A field that says where something is or how fast it goes, and cannot change a number (a path, say)."""
    return Field(default, json_schema_extra={"identity": False}, **kwargs)


class Section(BaseModel):
    """A mapping of the experiment file: unknown keys and wrong types are refused, values are never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Inconsistent(ValueError):
    """Two options that are each legal do not fit together.

    Attributes:
        key: dotted name of the option to point at, such as ``method.queue_size``.
        message: one sentence with the values, and what would be right.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message
