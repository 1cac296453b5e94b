"""The values of an experiment file as text that reads back as the same values. The counterpart of ``source``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.experiment.scalars import resolve

_WIDTH = 100
#: Words that mean themselves without quotes, also between brackets.
_PLAIN = re.compile(r"[A-Za-z_/.][\w./+-]*", re.ASCII)


def written(value: Mapping[str, Any]) -> str:
    """A mapping of plain JSON values as YAML: one line where that is short, indented where it is not."""
    return "\n".join(_block(value, "")) + "\n"


def _block(value: Mapping[str, Any] | Sequence[Any], indent: str) -> Iterator[str]:
    entries = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
    for key, item in entries:
        head = f"{indent}- " if key is None else f"{indent}{_scalar(key)}: "
        flow = _flow(item)
        if len(head) + len(flow) <= _WIDTH or not isinstance(item, Mapping | list | tuple):
            yield head + flow
        else:
            yield head.rstrip()
            yield from _block(item, indent + "  ")


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, allow_nan=False)
    is_plain = _PLAIN.fullmatch(value) and resolve(value) == value
    # A literal ${ is written $${, see `scalars.interpolate`.
    return value if is_plain else json.dumps(value.replace("${", "$${"), ensure_ascii=False)
