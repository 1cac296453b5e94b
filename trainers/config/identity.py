"""What of a configuration takes part in the run id, and the one spelling of it that is hashed.

Two rules keep run ids stable (design: "Adding an option with a default later must not change old ids"):

* every option that exists since the first release takes part in the identity with its value, so a changed default
  changes the id, as it must, because it changes the numbers;
* an option that is added later is declared with :func:`trainers.config.fields.added_later`, which freezes the value
  that stands for "as before"; while it has this value it is left out of the identity.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from pydantic import BaseModel

#: Sections of a run's configuration that change its numbers. Everything else is outside the identity.
IDENTITY_SECTIONS = ("method", "data", "augment", "backbone", "train", "seed")


def identity(section: BaseModel) -> dict[str, Any]:
    """What of a validated section takes part in the run id, as plain JSON values with their declared types.

    Values of fields that are outside the identity, and neutral values of options added later, are left out.
    """
    result: dict[str, Any] = {}
    for name, neutral in _identity_fields(type(section)):
        value = getattr(section, name)
        if neutral is _NO_NEUTRAL or value != neutral:
            result[name] = _plain(value)
    return result


def is_outside_identity(model: type[BaseModel], name: str) -> bool:
    """Whether the field ``name`` cannot change a number: a path, say. A name that is no field's is not outside."""
    field = model.model_fields.get(name)
    extra = field.json_schema_extra if field is not None else None
    return isinstance(extra, dict) and extra.get("identity") is False


_NO_NEUTRAL = object()


@functools.cache
def _identity_fields(model: type[BaseModel]) -> tuple[tuple[str, Any], ...]:
    """Fields of ``model`` that take part in the identity, each with its neutral value if it was added later."""
    extras = {
        name: field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        for name, field in model.model_fields.items()
        if not is_outside_identity(model, name)
    }
    return tuple((name, extra.get("neutral", _NO_NEUTRAL)) for name, extra in extras.items())


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return 0.0 if value == 0 else value  # -0.0 and 0.0 are one number and must be one spelling
    return value


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that is hashed: sorted keys, no spaces, ASCII, shortest round-trip floats."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
