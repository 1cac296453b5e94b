"""Which settings exist, derived once from the typed models, so that no option is listed in two places.

The shape answers what merging and messages need to know before anything is validated: where a component stands (a
value that is a name, or a mapping with a name and that component's options), which options it has, and how a path such
as ``data.profile`` is spelled.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True, eq=False)
class Leaf:
    """A place for a scalar or a list.

    Attributes:
        choices: the texts that are allowed there, if they are a closed set.
    """

    choices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SectionShape:
    """A place for a mapping with fixed keys. With a ``name`` among them, ``x: a`` is short for ``x: {name: a}``."""

    model: type[BaseModel]
    fields: Mapping[str, Shape]

    @property
    def has_name(self) -> bool:
        return "name" in self.fields


@dataclass(frozen=True, eq=False)
class ComponentShape:
    """A place for one of several components, told apart by ``name``.

    Attributes:
        default_name: the component that stands there when no name is written.
    """

    variants: Mapping[str, SectionShape]
    default_name: str

    @property
    def has_name(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class ListShape:
    """A place for a list of mappings. A list replaces another one whole, so no path leads into it."""

    item: SectionShape


Shape = Leaf | SectionShape | ComponentShape | ListShape


@functools.cache
def section_shape(model: type[BaseModel]) -> SectionShape:
    """The shape of a mapping that ``model`` validates."""
    return SectionShape(model, {name: _field_shape(field) for name, field in model.model_fields.items()})


def _field_shape(field: FieldInfo) -> Shape:
    parts = _alternatives(field.annotation)
    models = [part for part in parts if inspect.isclass(part) and issubclass(part, BaseModel)]
    if field.discriminator is not None:
        variants = {model.model_fields["name"].default: section_shape(model) for model in models}
        default = field.get_default(call_default_factory=True, validated_data={})
        return ComponentShape(variants, default.name if default is not None else next(iter(variants)))
    if models:
        return section_shape(models[0])
    for part in parts:
        items = [item for item in get_args(part) if inspect.isclass(item) and issubclass(item, BaseModel)]
        if get_origin(part) is tuple and items:
            return ListShape(section_shape(items[0]))
    return Leaf(tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part)))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def child(shape: Shape | None, key: str, name: str | None) -> Shape | None:
    """The shape below ``key``, in the component called ``name`` where a component stands; None where there is none."""
    if isinstance(shape, ComponentShape):
        shape = shape.variants.get(shape.default_name if name is None else name)
    return shape.fields.get(key) if isinstance(shape, SectionShape) else None


def find(shape: Shape, keys: Iterable[str]) -> Shape | None:
    """The shape at a path, in whichever component has it; None where no component has."""
    found: list[Shape] = [shape]
    for key in keys:
        found = [below for place in found for below in _children(place, key)]
    return found[0] if found else None


def _children(shape: Shape, key: str) -> Iterator[Shape]:
    if isinstance(shape, ComponentShape):
        for variant in shape.variants.values():
            yield from _children(variant, key)
    elif isinstance(shape, SectionShape) and key in shape.fields:
        yield shape.fields[key]


def _keys(shape: Shape) -> Iterator[str]:
    """What may be written directly below a place, the options of all its components included; may repeat."""
    if isinstance(shape, ComponentShape):
        for variant in shape.variants.values():
            yield from variant.fields
    elif isinstance(shape, SectionShape):
        yield from shape.fields


def paths(shape: Shape, prefix: str = "") -> Iterator[str]:
    """Every dotted path below ``shape``, parents first; may repeat."""
    for key in dict.fromkeys(_keys(shape)):
        yield prefix + key
        for below in _children(shape, key):
            yield from paths(below, f"{prefix}{key}.")


def closest(word: str, known: Iterable[str]) -> str | None:
    """The nearest spelling of ``word`` among ``known``, or what it is the beginning of, or None."""
    options = sorted(set(known))
    found = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    longer = [option for option in options if len(word) > 2 and option.startswith(word)]
    return next(iter([*found, *longer]), None)


def closest_path(path: str, shape: Shape) -> str | None:
    """The existing path that was probably meant.

    That is the same path with misspelt words corrected, or else a path elsewhere that ends in the same word
    (``epochs`` for ``train.epochs``), or nearly so.
    """
    corrected: list[str] = []
    places = [shape]
    for key in path.split("."):
        options = [option for place in places for option in _keys(place)]
        word = key if key in options else closest(key, options)
        if word is None:
            break
        corrected.append(word)
        places = [below for place in places for below in _children(place, word)]
    else:
        return ".".join(corrected)
    last = path.rpartition(".")[2]
    by_last_word: dict[str, str] = {}
    for known in paths(shape):
        by_last_word.setdefault(known.rpartition(".")[2], known)
    word = last if last in by_last_word else closest(last, by_last_word)
    found = by_last_word.get(word or "")
    return None if found is None or path.startswith(found) else found
