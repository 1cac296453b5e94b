"""Short texts for the values of an axis: what tables and MLflow's columns show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from orchestrator.experiment.nodes import Node, plain, spelled
from orchestrator.experiment.settings import component_name, leaf_paths
from trainers.config import RunConfig, is_outside_identity

#: Component name ("" where none is written) -> the options that tell the axis's values of this name apart.
Distinguishing = Mapping[str, tuple[str, ...]]

#: The label of an option that the run's component does not have.
NOT_APPLICABLE = "-"


def distinguishing(values: Iterable[Node]) -> Distinguishing:
    """Which options tell those of ``values`` apart that have the same name, or no name."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for node in values:
        options = {".".join(path): _at(plain(node), path) for path in leaf_paths(node) if path}
        options.pop("name", None)
        groups.setdefault(component_name(node) or "", []).append(options)
    return {name: _differing(group, show_all=not name and len(group) == 1) for name, group in groups.items()}


def _at(value: Any, path: Iterable[str]) -> Any:
    for key in path:
        value = value[key]
    return value


def _differing(group: list[dict[str, Any]], show_all: bool) -> tuple[str, ...]:
    missing = object()
    keys = dict.fromkeys(key for options in group for key in options)
    return tuple(
        key for key in keys if show_all or any(o.get(key, missing) != group[0].get(key, missing) for o in group)
    )


def label(config: RunConfig | Mapping[str, Any], path: str, options: Distinguishing | None = None) -> str:
    """The value of a run at ``path``, as short as can be.

    Args:
        config: the run, or the sections of it that ``path`` begins with.
        path: dotted, such as ``data.profile``.
        options: of the axis, from :func:`distinguishing`; without it a component's label is its name.

    Returns:
        A number, a word, a component's name (``long_tailed``), where needed with options that are not at their
        default (``long_tailed imbalance=10``), or ``-`` where the run's component has no such option.
    """
    value = _value(config, path)
    if value is _ABSENT:
        return NOT_APPLICABLE
    if not isinstance(value, BaseModel):
        return _text(value)
    name = str(getattr(value, "name", ""))
    parts = [f"{key}={_text(found)}" for key, found in _shown(value, name, options or {})]
    return " ".join([name, *parts] if name else parts) or "default"


def _shown(value: BaseModel, name: str, options: Distinguishing) -> Iterator[tuple[str, Any]]:
    """The options that the label needs. Beside a name, an option at its default goes without saying, and a path too.

    So the labels of runs that exist stay as they are when an axis gets another value of the same name.
    """
    default = type(value).model_construct() if name else None
    # Options that were written without a name belong to whichever component stands there.
    for key in dict.fromkeys([*options.get(name, ()), *options.get("", ())]):
        found = _ABSENT if name and is_outside_identity(type(value), key) else _value(value, key)
        if found is not _ABSENT and (default is None or found != _value(default, key)):
            yield key, found


_ABSENT = object()


def _value(config: BaseModel | Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(key, _ABSENT)
        elif isinstance(value, BaseModel) and key in type(value).model_fields:
            value = getattr(value, key, _ABSENT)  # a component that was built without options lacks the required ones
        else:
            return _ABSENT
    return value


def _text(value: Any) -> str:
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", "set"))
    return "none" if value is None else spelled(value)
