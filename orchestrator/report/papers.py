"""The figures of the papers' tables, typed: what ``papers.yaml`` beside this file holds."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """One printed figure. What the source does not say is None.

    Attributes:
        dataset: what is evaluated on.
        profile: of the training images: ``balanced``, ``unbalanced``, ``long_tailed_100`` or ``long_tailed``.
        metric: such as ``knn_top1`` or ``linear_transfer``.
        value: in percent, as printed.
        corrected: what the printed value, a misprint, must have been.
        symmetric: whether both views are queries.
        k, knn_temperature: of k-NN.
        features: ``projection`` where it is not the representation that is evaluated.
        network: ``teacher`` where the source says that it is evaluated.
        subset: ``all`` or ``rare`` classes, where the table has both.
        label_fraction: share of the labels that the classifier is trained on.
        teacher: network that is distilled from.
        evaluated_by: who evaluated the network, where the table has two figures of it.
    """

    method: str
    arch: str | None
    epochs: int | None
    batch_size: int | None
    dataset: str
    train_split: str
    profile: str
    metric: str
    value: float
    corrected: float | None = None
    symmetric: bool | None = None
    k: int | None = None
    knn_temperature: float | None = None
    features: str | None = None
    network: str | None = None
    subset: str | None = None
    label_fraction: float | None = None
    teacher: str | None = None
    evaluated_by: str | None = None
    note: str | None = None

    @property
    def meant(self) -> float:
        """The value, without the misprint where there is one."""
        return self.value if self.corrected is None else self.corrected


@dataclass(frozen=True)
class PrintedTable:
    """A table of a paper.

    Attributes:
        name: ``<paper>/<table>``, such as ``isd/table5``.
        title: of the paper.
        source: where the figures were read.
    """

    name: str
    title: str
    source: str
    figures: tuple[PaperFigure, ...]


@functools.cache
def printed_tables() -> Mapping[str, PrintedTable]:
    """Every table by its name.

    Raises:
        ValueError: an entry of the file has a key that is not known, or lacks one; the message names it.
    """
    papers = yaml.load(files(__package__).joinpath("papers.yaml").read_bytes(), Loader=_Loader)  # noqa: S506
    return {table.name: table for paper, content in papers.items() for table in _tables(paper, content)}


def _tables(paper: str, content: Mapping[str, Any]) -> Iterator[PrintedTable]:
    for table, entry in content["tables"].items():
        name = f"{paper}/{table}"
        figures = tuple(_figure(name, {**entry.get("shared", {}), **figure}) for figure in entry["figures"])
        yield PrintedTable(name, content["title"], content["source"], figures)


_KEYS = {field.name for field in fields(PaperFigure)}
_REQUIRED = ("method", "arch", "epochs", "batch_size", "dataset", "train_split", "profile", "metric", "value")


def _figure(table: str, entry: Mapping[str, Any]) -> PaperFigure:
    unknown, missing = set(entry) - _KEYS, set(_REQUIRED) - set(entry)
    if unknown or missing:
        raise ValueError(f"papers.yaml, {table}: {entry} has unknown keys {unknown} or lacks {missing}")
    return PaperFigure(**entry)
