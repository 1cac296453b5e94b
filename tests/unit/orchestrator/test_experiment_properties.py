"""What may be written differently without becoming a different run."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import InputError
from orchestrator.experiment import Cell, load_experiment
from orchestrator.experiment.schema import TOP_LEVEL

fast = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

probabilities = st.floats(0, 1, allow_subnormal=False)

#: Settings that are valid in any combination: each batch size divides each queue and is a multiple of each group.
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "method": st.sampled_from(
        [
            "moco_v2",
            "isd",
            {"name": "isd", "queue_size": 1024, "momentum": 0.99},
            {"name": "moco_v2", "temperature": 0.1, "symmetric": True},
        ]
    ),
    "backbone": st.sampled_from(["resnet18", "vit_tiny", {"name": "resnet18", "width": 8}]),
    "seed": st.integers(0, 2**63),
    "data.name": st.sampled_from(["digits", "cifar10", "image_folder"]),
    "data.profile": st.sampled_from(["balanced", "long_tailed", {"name": "long_tailed", "imbalance": 10}]),
    "data.split_seed": st.integers(0, 9),
    "augment.flip_probability": probabilities,
    "augment.jitter": st.lists(probabilities, min_size=4, max_size=4),
    "train.epochs": st.integers(1, 500),
    "train.batch_size": st.sampled_from([64, 128, 256]),
    "train.learning_rate": st.floats(1e-6, 10),
    "train.weight_decay": st.floats(0, 1),
    "train.optimizer": st.sampled_from(["sgd", "adamw", {"name": "adamw", "beta1": 0.5}]),
    "train.schedule": st.sampled_from(["cosine", {"name": "step", "milestones": [3, 9]}]),
    "train.decay_matrices_only": st.booleans(),
}

base_settings = st.fixed_dictionaries({}, optional=OPTIONS)
seeds = st.integers(0, 2**32)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        place = result
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    return result


def cells(document: Mapping[str, Any], **files: Mapping[str, Any]) -> list[Cell]:
    """The runs of a file. JSON is YAML, so that the text is written without a library's own rules."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {"x": document, **files}.items():
            Path(folder, f"{name}.yaml").write_text(json.dumps(content))
        return load_experiment(Path(folder, "x.yaml"), (), {}).cells()


def ids(document: Mapping[str, Any], **files: Mapping[str, Any]) -> list[str]:
    return [cell.run_id for cell in cells(document, **files)]


def shuffled(value: Any, order: random.Random) -> Any:
    """The same mappings with their keys in another order."""
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


def respelled(value: Any) -> Any:
    """The same numbers as floats where they were whole, and as whole numbers where they were floats."""
    if isinstance(value, dict):
        return {key: respelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [respelled(item) for item in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and int(float(value)) == value:
        return float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def long_form(value: Any, key: str = "") -> Any:
    """Every component as a mapping with a name."""
    if key in ("method", "backbone", "profile", "optimizer", "schedule") and isinstance(value, str):
        return {"name": value}
    return {k: long_form(item, k) for k, item in value.items()} if isinstance(value, dict) else value


@fast
@given(base_settings, seeds)
def test_the_order_of_keys_does_not_matter(flat: dict[str, Any], seed: int) -> None:
    document = {"name": "x", "base": nested(flat)}
    assert ids(shuffled(document, random.Random(seed))) == ids(document)


@fast
@given(base_settings)
def test_the_spelling_of_numbers_does_not_matter(flat: dict[str, Any]) -> None:
    assert ids({"name": "x", "base": respelled(nested(flat))}) == ids({"name": "x", "base": nested(flat)})


def test_exponents_and_decimals_are_one_number() -> None:
    def of(text: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.yaml")
            path.write_text(f"name: x\nbase: {{train: {{weight_decay: {text}}}}}\n")
            return load_experiment(path, (), {}).cells()[0].run_id

    assert len({of(text) for text in ("1e-4", "0.0001", "1.0E-04", ".0001", "10e-5", "+1e-4")}) == 1


@fast
@given(base_settings)
def test_shorthand_and_long_form_are_one(flat: dict[str, Any]) -> None:
    base = nested(flat)
    assert ids({"name": "x", "base": long_form(base)}) == ids({"name": "x", "base": base})


@fast
@given(base_settings)
def test_dotted_and_nested_keys_are_one(flat: dict[str, Any]) -> None:
    assert ids({"name": "x", "base": flat}) == ids({"name": "x", "base": nested(flat)})


@fast
@given(base_settings, seeds)
def test_splitting_a_file_into_extends_changes_nothing(flat: dict[str, Any], seed: int) -> None:
    order = random.Random(seed)
    parts: list[dict[str, Any]] = [{}, {}, {}]
    for path, value in flat.items():
        order.choice(parts)[path] = value
    first, second, own = parts
    split = {"name": "x", "extends": ["a.yaml"], "base": own}
    found = ids(split, a={"extends": "b.yaml", "base": nested(first)}, b={"base": nested(second)})
    assert found == ids({"name": "x", "base": nested(flat)})


#: An axis whose first value is what a run has without it.
NEW_AXES = [
    ("data.profile", ["balanced", {"name": "long_tailed", "imbalance": 5}]),
    ("data.split_seed", [0, 1]),
    ("augment.flip_probability", [None, 0.25]),
    ("backbone", ["resnet18", {"name": "resnet18", "width": 16}]),
    ("train.weight_decay", [1e-4, 0.5]),
    ("train.optimizer", [{"name": "sgd"}, "adamw"]),
    ("train.optimizer.momentum", [0.9, 0.5]),
]


@fast
@given(base_settings, st.sampled_from(NEW_AXES), st.booleans())
def test_another_axis_leaves_the_ids_of_the_old_cells(
    flat: dict[str, Any], axis: tuple[str, list[Any]], is_first: bool
) -> None:
    path, values = axis
    flat = {key: value for key, value in flat.items() if not path.startswith(key)}
    old_grid: dict[str, list[Any]] = {"method": ["moco_v2", "isd"], "train.epochs": [3, 4]}
    grid = {path: values, **old_grid} if is_first else {**old_grid, path: values}
    old, new = (ids({"name": "x", "base": nested(flat), "grid": axes}) for axes in (old_grid, grid))
    assert set(old) < set(new)
    assert len(new) == 2 * len(old)


@fast
@given(
    base_settings,
    st.from_regex(r"[a-z][a-z0-9._-]{0,20}", fullmatch=True),
    st.fixed_dictionaries(
        {},
        optional={
            "resources": st.fixed_dictionaries(
                {"nodes": st.sampled_from([1, 2, 4]), "gpus_per_node": st.sampled_from([0, 1])}
            ),
            "backend": st.sampled_from(["local", "ray", {"name": "slurm", "partition": "gpu"}]),
            "tracking": st.just({"uri": "http://localhost:5000"}),
            "retries": st.just({"failed": 9}),
            "report": st.just({"rows": "seed", "columns": "method"}),
        },
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "data.root": st.text(min_size=1, alphabet="abc/"),
            "evaluate": st.sampled_from([{"knn": None}, {"knn": {"k": [7]}, "untrained": False}]),
            "runtime": st.just({"workers": 3, "log_every_steps": 1}),
        },
    ),
)
def test_where_and_how_a_run_is_carried_out_does_not_matter(
    flat: dict[str, Any], name: str, sections: dict[str, Any], outside: dict[str, Any]
) -> None:
    flat |= {"train.batch_size": 256}  # batch-norm groups for four processes
    changed = {"name": name, "base": nested({**flat, **outside}), **sections}
    assert ids(changed) == ids({"name": "x", "base": nested(flat)})


@fast
@given(base_settings, st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True))
def test_an_axis_gives_the_runs_that_single_files_give(flat: dict[str, Any], values: list[int]) -> None:
    flat.pop("seed", None)
    together = ids({"name": "x", "base": nested(flat), "grid": {"seed": values}})
    assert together == [ids({"name": "x", "base": nested({**flat, "seed": value})})[0] for value in values]


KEYS = ("name", "data.profile", "train", "train.epochs", "seed", "if", "set", "resources.nodes", "a\nb", "")
words = st.sampled_from(["method", "isd", "moco_v2", *KEYS])
leaves = st.one_of(st.none(), st.booleans(), st.integers(-2, 300), st.floats(-1, 2), words)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)
sections = st.sampled_from([*TOP_LEVEL, "method", ""])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(sections, trees, max_size=4), st.lists(st.tuples(words, trees), max_size=2))
def test_nothing_that_can_be_written_ends_in_another_error(
    document: dict[str, Any], assignments: list[tuple[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.yaml")
        path.write_text(json.dumps({"name": "x", **document}))
        overrides = [f"{key}={json.dumps(value)}" for key, value in assignments]
        try:
            load_experiment(path, overrides, {}).cells()
        except InputError as error:
            assert all(line.startswith((str(path), "--set ", "...")) for line in str(error).split("\n"))
