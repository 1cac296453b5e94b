"""Which printed figure belongs to which cell of our table, and how the two differ. Pure but for ``papers.yaml``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.report.grouping import Cells
from orchestrator.report.model import Cell, Column, PaperTable, Reference, ReportedRun, Row, RowKind, Setup, Table
from orchestrator.report.papers import PaperFigure, printed_tables
from orchestrator.report.statistics import mean_interval

#: Our data sets by the papers' names for what is evaluated.
_DATASETS = {"imagenet": "imagenet1k"}
#: The papers' methods by ours, where the names differ. Some say MoCo without a version.
_METHODS = {"moco_v1": ("moco_v1", "moco"), "moco_v2": ("moco_v2", "moco"), "random": ("random_init",)}
#: Few labels of CIFAR-100, which has 500 training images of a class: how BCL counts them.
_SHOTS = {"20": "linear_100shot_top1", "10": "linear_50shot_top1"}
#: Lists of ISD's authors: 38 classes of ImageNet.
_ISD_LIST = re.compile(r"isd-(D[0-9]+)")
#: Width of the first stage of a ResNet as everybody has it.
_RESNET_WIDTH = 64

_KNN = re.compile(r"eval/knn(?:_k(?P<k>[0-9]+))?(?:_(?P<network>student|teacher))?/(?P<measure>top1|few)")
_LINEAR = re.compile(
    r"eval/linear(?:_(?P<share>[0-9.]+)pct)?(?:_(?P<network>student|teacher))?/(?P<measure>top1|top5|few)"
)
_TRANSFER = re.compile(r"eval/transfer_(?P<dataset>\w+)_linear/(?:top1|class_mean)")


@dataclass(frozen=True)
class _Wanted:
    """What a figure must be to stand beside a cell, exactly."""

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    dataset: str
    profile: str
    train_split: str
    network: str | None = None
    subset: str | None = None
    k: int | None = None
    label_fraction: float | None = None

    def fits(self, figure: PaperFigure) -> bool:
        """Whether the figure is of this method, metric, data set and profile."""
        return (
            figure.method in self.methods
            and figure.metric in self.metrics
            and (figure.dataset, figure.profile) == (self.dataset, self.profile)
            and (not self.train_split or figure.train_split == self.train_split)
            and figure.network == self.network
            and (figure.subset or "all") == (self.subset or "all")
            and figure.k == self.k
            and figure.label_fraction == self.label_fraction
        )


def setup_of(config: Mapping[str, Any]) -> Setup | None:
    """What the papers would call a run, from the ``config`` of its ``spec.json``; None of one that lacks a section."""
    if not {"method", "data", "train", "backbone"} <= config.keys():
        return None
    method, data, train, backbone = (config[name] for name in ("method", "data", "train", "backbone"))
    knn = (config.get("evaluate") or {}).get("knn") or {}
    dataset, profile, split = _data(data)
    return Setup(
        method=method["name"],
        is_symmetric=method.get("symmetric"),
        arch=_arch(backbone),
        epochs=train["epochs"],
        batch_size=train["batch_size"],
        dataset=dataset,
        profile=profile,
        train_split=split,
        k=next(iter(knn.get("k", ())), None),
        knn_temperature=knn.get("temperature"),
        knn_features=knn.get("features", "backbone"),
    )


def _data(data: Mapping[str, Any]) -> tuple[str, str, str]:
    """Data set, profile and list of the training images, as the papers name them."""
    name = data.get("label") or data["name"] if data["name"] == "image_folder" else data["name"]
    dataset = _DATASETS.get(name, name)
    profile = data["profile"]
    isd_list = _ISD_LIST.fullmatch(profile.get("label", ""))
    match profile["name"]:
        case "list_file" if isd_list and dataset == "imagenet1k":
            return "imagenet38", "unbalanced", isd_list[1]
        case "long_tailed" if profile.get("size") is None:
            return dataset, "long_tailed_100" if profile["imbalance"] == 100 else "long_tailed", ""
        case "full":
            return dataset, "balanced", ""
        # A balanced subset of some other size is nobody's training set.
        case "balanced" if all(profile.get(key) is None for key in ("size", "match_imbalance", "match")):
            return dataset, "balanced", ""
    return dataset, "", ""


def _arch(backbone: Mapping[str, Any]) -> str:
    name = str(backbone["name"])
    if "patch_size" in backbone:
        return f"{name}_{backbone['patch_size']}"
    return name if backbone.get("width") == _RESNET_WIDTH else f"{name} of width {backbone.get('width')}"


def wanted(metric: str, setup: Setup) -> _Wanted | None:
    """What a printed figure must be to stand beside a metric of a run; None if no paper has such a metric."""
    shared = _Wanted(_METHODS.get(setup.method, (setup.method,)), (), setup.dataset, setup.profile, setup.train_split)
    if found := _TRANSFER.fullmatch(metric):
        return replace(shared, metrics=("linear_transfer",), dataset=found["dataset"])
    if found := _KNN.fullmatch(metric):
        k = int(found["k"]) if found["k"] else setup.k
        return _of_classes(replace(shared, metrics=("knn_top1",), k=k, network=found["network"]), found["measure"])
    if found := _LINEAR.fullmatch(metric):
        shared = replace(shared, network=found["network"])
        share, measure = found["share"], found["measure"]
        if share in _SHOTS and setup.dataset == "cifar100" and measure == "top1":
            return replace(shared, metrics=(_SHOTS[share],))
        fraction = float(share) / 100 if share else None
        kinds = ("linear_top5",) if measure == "top5" else ("linear_top1", "online_linear_top1")
        return _of_classes(replace(shared, metrics=kinds, label_fraction=fraction), measure)
    return None


def _of_classes(sought: _Wanted, measure: str) -> _Wanted:
    return replace(sought, subset="rare") if measure == "few" else sought


def nearest(figures: Iterable[PaperFigure], metric: str, setup: Setup) -> tuple[PaperFigure, str] | None:
    """The figure that belongs beside a metric of a run, with what differs in words; None if there is none.

    Method, metric, data set and profile are the same. Of several, the one whose network, length and batch differ least.
    """
    sought = wanted(metric, setup)
    fitting = [figure for figure in figures if sought is not None and sought.fits(figure)]
    if not fitting:
        return None
    found = min(fitting, key=lambda figure: _distance(figure, setup))
    unstated = list(_unstated(found))
    parts = [*_differing(found, setup), *([f"{_listed(unstated)} not stated"] if unstated else [])]
    if found.evaluated_by is not None:
        parts.append(f"evaluated by {found.evaluated_by.replace('_', ' ')}")
    if found.corrected is not None:
        parts.append(f"misprinted as {found.value:g}")
    if found.note and found.corrected is None and not unstated:
        parts.append(found.note)
    return found, "; ".join(parts)


def _distance(figure: PaperFigure, setup: Setup) -> tuple[float, ...]:
    """Smaller for what is nearer: fewer differences, more that is stated, a length that is more alike."""
    length = 0.0 if figure.epochs is None else abs(math.log(figure.epochs / setup.epochs))
    return len(list(_differing(figure, setup))), len(list(_unstated(figure))), length


def _differing(figure: PaperFigure, setup: Setup) -> Iterator[str]:
    """What the paper has, and what is here, one phrase for each difference."""
    pairs: list[tuple[str, object, object]] = [
        ("", figure.arch, setup.arch),
        ("epochs ", figure.epochs, setup.epochs),
        ("batch ", figure.batch_size, setup.batch_size),
    ]
    if figure.metric == "knn_top1":
        pairs.append(("temperature ", figure.knn_temperature, setup.knn_temperature))
        pairs.append(("features ", figure.features or "backbone", setup.knn_features))
    for name, theirs, ours in pairs:
        if theirs is not None and theirs != ours:
            yield f"{name}{theirs}, here {ours}"
    if None not in (figure.symmetric, setup.is_symmetric) and figure.symmetric != setup.is_symmetric:
        yield "both views are queries, here one" if figure.symmetric else "one view is the query, here both"
    if figure.metric == "online_linear_top1":
        yield "classifier trained beside the network, here afterwards"
    if figure.profile.startswith("long_tailed"):
        yield "other images of the same profile"


def _unstated(figure: PaperFigure) -> Iterator[str]:
    """What the source should say and does not. The batch is hardly ever stated, and no reason for a mark by itself."""
    missing = [name for name, value in (("network", figure.arch), ("epochs", figure.epochs)) if value is None]
    yield from [*missing, "batch"] if missing and figure.batch_size is None else missing


def _listed(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def beside_paper(table: Table, cells: Cells, name: str, confidence: float) -> tuple[Table, PaperTable]:
    """The table with the figures of a paper's table in its cells, and what must be known of them.

    Args:
        name: of the paper's table, one of :data:`orchestrator.experiment.references.TABLES`.
        confidence: of the intervals around differences.
    """
    printed = printed_tables()[name]
    notes: dict[str, int] = {}

    def with_figure(row: str, column: Column, cell: Cell) -> Cell:
        setup = _shared_setup(cells.of(row, column.group))
        found = nearest(printed.figures, column.metric, setup) if setup is not None else None
        if found is None:
            return cell
        figure, note = found
        number = notes.setdefault(note, len(notes) + 1) if note else None
        return replace(cell, reference=_reference(cell, figure.meant, number, confidence))

    rows = tuple(
        Row(
            row.label,
            row.kind,
            tuple(
                with_figure(row.label, column, cell) if row.kind is RowKind.RUNS else cell
                for column, cell in zip(table.columns, row.cells, strict=True)
            ),
        )
        for row in table.rows
    )
    return replace(table, rows=rows), PaperTable(name, f"{printed.title}; {printed.source}", tuple(notes))


def _shared_setup(runs: Iterable[ReportedRun]) -> Setup | None:
    """The setup of all runs of a cell; None if there is none, or they differ and no figure can belong to all."""
    setups = {run.setup for run in runs if run.setup is not None}
    return setups.pop() if len(setups) == 1 else None


def _reference(cell: Cell, printed: float, note: int | None, confidence: float) -> Reference:
    ours = cell.estimate
    # A run that was stopped early is no match for a paper's.
    if ours is None or cell.is_early:
        return Reference(printed, None, None, note)
    return Reference(
        printed, ours.mean - printed, mean_interval(ours.mean - printed, ours.std, ours.n, confidence), note
    )
