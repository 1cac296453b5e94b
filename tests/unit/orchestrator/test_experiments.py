"""Every experiment file in the repository can be planned, and has the rows of its paper's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.experiment import Cell, load_experiment
from trainers.config import BYOL, LARS, SGD, AdamW, Balanced, Evaluate, LongTailed, ResNet, ViT

FOLDER = Path(__file__).parents[3] / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
RECIPES = sorted((FOLDER / "recipes").glob("*.yaml"))
DOCS = Path(__file__).parents[3] / "docs"

#: (method, backbone, epochs, global batch) of every row of the papers' tables that a file stands for, in its order.
ROWS: dict[str, list[tuple[str, str, int, int]]] = {
    "isd_table1": [
        ("supervised", "resnet50", 100, 256),
        ("simclr", "resnet50", 200, 4096),
        ("simclr", "resnet50", 1000, 4096),
        ("moco_v2 symmetric", "resnet50", 200, 256),
        ("moco_v2 symmetric", "resnet50", 400, 256),
        ("moco_v2", "resnet50", 800, 256),
        ("byol", "resnet50", 200, 4096),
        ("byol", "resnet50", 1000, 4096),
        ("moco_v2", "resnet50", 200, 256),
        ("byol_asym", "resnet50", 200, 256),
        ("isd", "resnet50", 200, 256),
        ("supervised", "resnet18", 100, 256),
        ("moco_v2", "resnet18", 200, 256),
        ("byol_asym", "resnet18", 200, 256),
        ("isd", "resnet18", 200, 256),
    ],
    "isd_table2": [
        ("supervised", "resnet50", 100, 256),
        ("simclr", "resnet50", 1000, 4096),
        ("moco_v2", "resnet50", 800, 256),
        ("byol", "resnet50", 1000, 4096),
        ("byol_asym", "resnet50", 200, 256),
        ("moco_v2", "resnet50", 200, 256),
        ("isd", "resnet50", 200, 256),
        ("byol_asym", "resnet18", 200, 256),
        ("moco_v2", "resnet18", 200, 256),
        ("isd", "resnet18", 200, 256),
    ],
    "isd_table4": [
        ("byol", "resnet50", 1000, 4096),
        ("moco_v2", "resnet50", 200, 256),
        ("byol_asym", "resnet50", 200, 256),
        ("isd", "resnet50", 200, 256),
        ("moco_v2", "resnet50", 800, 256),
    ],
    "isd_table5": [("moco_v2", "resnet18", 200, 256), ("isd", "resnet18", 200, 256)] * 10,
    "isd_figure2": [(method, "resnet18", 200, 256) for method in ("moco_v2", "byol_asym", "isd")],
    "msf_imagenet": [
        ("random", "resnet50", 1, 256),
        ("byol", "resnet50", 300, 4096),  # in 16 parts of 256
        ("byol", "resnet50", 400, 4096),
    ],
    "moco_readme": [
        ("moco_v1", "resnet50", 200, 256),
        ("moco_v2", "resnet50", 200, 256),
        ("moco_v2", "resnet50", 800, 256),
    ],
    "moco_v3_readme": [
        ("moco_v3", "resnet50", 100, 4096),
        ("moco_v3", "resnet50", 300, 4096),
        ("moco_v3", "resnet50", 1000, 4096),
        ("moco_v3", "vit_small", 300, 4096),
        ("moco_v3", "vit_base", 300, 4096),
    ],
    "simclr_readme": [("simclr", "resnet50", 1000, 4096)],
    "simclr_readme_cifar10": [("simclr", "resnet18", 1000, 512)],
    "byol_readme": [("byol", "resnet50", 1000, 4096)],
    "byol_readme_imagenette": [("byol", "resnet18", 1000, 256)],
    "moco_cifar_notebook": [
        (method, "resnet18", epochs, 512) for method in ("moco_v1", "moco_v1 symmetric") for epochs in (200, 400, 800)
    ],
    "solo_learn_cifar": [
        ("moco_v2 symmetric", "resnet18", 1000, 256),
        ("moco_v3", "resnet18", 1000, 256),
        ("byol", "resnet18", 1000, 256),
        ("simclr", "resnet18", 1000, 256),
    ]
    * 2,
    "solo_learn_imagenet100": [
        ("moco_v2 symmetric", "resnet18", 400, 256),
        ("moco_v3", "resnet18", 400, 256),
        ("moco_v3", "resnet50", 400, 256),
        ("byol", "resnet18", 400, 256),
        ("simclr", "resnet18", 400, 256),
    ],
    "solo_learn_imagenet": [("moco_v2 symmetric", "resnet50", 100, 128), ("byol", "resnet50", 100, 2048)],
    "lightly_cifar10": [
        (method, "resnet18", epochs, batch)
        for method in ("moco_v2 symmetric", "byol", "simclr")
        for batch, epochs in ((128, 200), (512, 200), (512, 800))
    ],
    "lightly_imagenet": [(method, "resnet50", 100, 256) for method in ("moco_v2", "byol", "simclr")],
    "supcontrast_readme": [("simclr", "resnet50", 1000, 1024)] * 2,
    "bcl_readme": [("simclr", "resnet18", 2000, 512)] * 3,
    "sdssl_layers": [("sdssl", "vit_base", 300, 1024)] * 6,
}


def cells(name: str) -> list[Cell]:
    return load_experiment(FOLDER / f"{name}.yaml", environment={}).cells()


def row(cell: Cell) -> tuple[str, str, int, int]:
    """What a table says of a run; losses of one direction are the rule for MoCo, and of both for BYOL."""
    config = cell.config
    is_symmetric = config.method.name.startswith("moco_v") and getattr(config.method, "symmetric", False)
    method = config.method.name + (" symmetric" if is_symmetric else "")
    return method, config.backbone.name, config.train.epochs, config.train.batch_size


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_has_a_plan(path: Path) -> None:
    experiment = load_experiment(path, environment={})
    assert experiment.cells()
    assert experiment.name == path.stem.replace("_", "-")


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_of_the_table_are_there(name: str) -> None:
    assert [row(cell) for cell in cells(name)] == ROWS[name]


def test_every_rule_of_the_recipes_is_about_a_run() -> None:
    """The values of a rule that no experiment file makes use of would be checked by nothing."""
    plans = [load_experiment(path, environment={}) for path in FILES]
    plans += [load_experiment(FOLDER / "byol_readme.yaml", [f"train.epochs={n}"], {}) for n in (40, 100)]
    rules = {str(rule.at): 0 for plan in plans for rule in plan.expansion.changed}
    for plan in plans:
        for rule in plan.expansion.changed:
            rules[str(rule.at)] += rule.cells
    assert [at for at, count in rules.items() if not count] == []
    assert {path.name for path in RECIPES if "\nwhen:" in path.read_text()} <= {
        Path(at.split(":")[0]).name for at in rules
    }


def test_the_index_of_tables_names_every_file() -> None:
    index = (DOCS / "reproducing.md").read_text()
    assert [path.name for path in FILES if path.name not in index] == []


def measured(evaluate: Evaluate, depth: int) -> set[str]:
    """Names of what an evaluation measures, without the measure itself and without networks beside the paper's."""
    names = {"geometry"} if evaluate.geometry else set()
    for name, section in (("knn", evaluate.knn), ("linear", evaluate.linear)):
        if section is not None:
            names |= {name} | {f"{name}_layer{block}" for block in range(1, depth + 1) if section.layers}
    if evaluate.knn is not None:
        names |= {f"knn_k{k}" for k in evaluate.knn.k[1:]}
    if evaluate.few_labels is not None:
        names |= {f"linear_{100 * share:g}pct" for share in evaluate.few_labels.shares}
    return names | {f"transfer_{transfer.title}_linear" for transfer in evaluate.transfer}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reports_ask_for_what_is_measured(path: Path) -> None:
    experiment = load_experiment(path, environment={})
    for cell in experiment.cells():
        evaluate, depth = cell.config.evaluate, getattr(cell.config.backbone, "depth", 0)
        asked = {name.split("/")[1].removesuffix("_teacher") for name in experiment.report.metrics}
        assert asked <= measured(evaluate, depth), cell.title
        by_class = {f"eval/transfer_{t.title}_linear/class_mean" for t in evaluate.transfer if t.metric == "per_class"}
        assert {name for name in experiment.report.metrics if name.endswith("class_mean")} == by_class


def test_tables_of_one_paper_share_their_runs() -> None:
    trained = {cell.run_id for cell in cells("isd_table1")}
    for name in ("isd_table2", "isd_table4", "isd_figure2"):
        assert {cell.run_id for cell in cells(name)} <= trained, name
    assert {cell.run_id for cell in cells("simclr_readme") + cells("byol_readme")} <= trained
    assert {cell.run_id for cell in cells("moco_readme")[1:]} <= trained
    # Whichever of the two files starts them, the curve of figure 2 is measured.
    curves = [c.config.evaluate.knn for c in cells("isd_table1") if row(c) in ROWS["isd_figure2"]]
    assert [knn.every_epochs for knn in curves if knn is not None] == [10, 10, 10]


# Values of the papers' recipes, as they arrive at a run.


def peak(cell: Cell) -> float:
    return cell.config.train.peak_learning_rate


def test_learning_rates_by_network_and_length() -> None:
    v3 = cells("moco_v3_readme")
    assert [peak(cell) for cell in v3] == pytest.approx([9.6, 4.8, 4.8, 2.4e-3, 2.4e-3])
    assert [cell.config.train.weight_decay for cell in v3] == [1e-6, 1e-6, 1.5e-6, 0.1, 0.1]
    assert [type(cell.config.train.optimizer) for cell in v3] == [LARS, LARS, LARS, AdamW, AdamW]
    table = {row(cell): cell for cell in cells("isd_table1")}
    expected = {
        ("isd", "resnet18", 200, 256): 0.01,
        ("isd", "resnet50", 200, 256): 0.05,
        ("byol_asym", "resnet18", 200, 256): 0.05,
        ("moco_v2", "resnet50", 200, 256): 0.03,
        ("byol", "resnet50", 200, 4096): 4.8,
        ("byol", "resnet50", 1000, 4096): 3.2,
        ("simclr", "resnet50", 200, 4096): 4.8,
    }
    assert {key: peak(table[key]) for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "learning_rate", "weight_decay", "momentum"),
    [(40, 0.45, 1e-6, 0.97), (100, 0.45, 1e-6, 0.99), (300, 0.3, 1e-6, 0.99), (1000, 0.2, 1.5e-6, 0.996)],
)
def test_byol_by_length(epochs: int, learning_rate: float, weight_decay: float, momentum: float) -> None:
    (cell,) = load_experiment(FOLDER / "byol_readme.yaml", [f"train.epochs={epochs}"], {}).cells()
    assert isinstance(cell.config.method, BYOL)
    train = cell.config.train
    assert (train.learning_rate, train.weight_decay, cell.config.method.momentum) == (
        learning_rate,
        weight_decay,
        momentum,
    )


def test_the_two_forms_of_isd() -> None:
    table = {row(cell): cell.config for cell in cells("isd_table1")}
    plain, plus = table["isd", "resnet18", 200, 256], table["isd", "resnet50", 200, 256]
    assert plain.method.model_dump(include={"projector", "teacher_temperature", "student_temperature", "momentum"}) == {
        "projector": False,
        "teacher_temperature": 0.02,
        "student_temperature": 0.02,
        "momentum": 0.999,
    }
    assert plus.method.model_dump(include={"projector", "teacher_temperature", "student_temperature", "momentum"}) == {
        "projector": True,
        "teacher_temperature": 0.01,
        "student_temperature": 0.1,
        "momentum": 0.99,
    }
    assert (plain.train.schedule.name, plus.train.schedule.name) == ("step", "cosine")


def test_imagenet_is_trained_whole_at_its_own_size() -> None:
    for path in FILES:
        for cell in load_experiment(path, environment={}).cells():
            config = cell.config
            if config.data.name not in ("imagenet", "imagenet100"):
                continue
            if not path.stem.startswith("isd_table5"):
                assert config.data.profile.name == "full", cell.title
            if isinstance(config.backbone, ResNet):
                assert config.backbone.stem == "imagenet", cell.title
            else:
                assert isinstance(config.backbone, ViT)
                assert config.backbone.patch_size == 16


def test_losses_that_are_averaged_elsewhere_train_alike_with_sgd() -> None:
    """SGD makes the same steps of s times a loss with 1/s of the learning rate and s times the weight decay."""
    by_row = {row(cell): cell.config.train for cell in cells("lightly_cifar10")}
    for method, scale in (("simclr", 1), ("moco_v2 symmetric", 2), ("byol", 4)):
        for batch, epochs in ((128, 200), (512, 800)):
            train = by_row[method, "resnet18", epochs, batch]
            assert isinstance(train.optimizer, SGD)
            assert train.peak_learning_rate * scale == pytest.approx(0.06 * batch / 128)
            assert train.weight_decay / scale == pytest.approx(5e-4)
    (first, _) = cells("supcontrast_readme")
    assert peak(first) * 0.07 / 0.5 == pytest.approx(0.5, rel=1e-4)
    assert first.config.train.weight_decay * 0.5 / 0.07 == pytest.approx(1e-4)


def test_unbalanced_lists_and_their_control() -> None:
    labels = [cell.config.data.profile for cell in cells("isd_table5")]
    assert sorted({getattr(profile, "label", "") for profile in labels}) == sorted(f"isd-D{n}" for n in range(1, 11))
    profiles = {cell.config.data.profile for cell in cells("isd_table5_control")}
    balanced = next(profile for profile in profiles if isinstance(profile, Balanced))
    assert balanced.match in profiles


def test_long_tailed_cifar_has_sdclrs_sizes() -> None:
    (first, *_) = cells("bcl_readme")
    data = first.config.data
    assert isinstance(data.profile, LongTailed)
    largest = 500 - data.holdout_per_class
    sizes = [int(largest * data.profile.imbalance ** (-number / 99)) for number in range(100)]
    assert (sum(sizes), sizes[0], sizes[-1]) == (9754, 450, 4)


def test_baselines_of_sdssl_differ_by_their_losses_alone() -> None:
    configs = [cell.config for cell in cells("sdssl_layers")]
    for baseline, distilled in zip(configs[::2], configs[1::2], strict=True):
        assert baseline.method.model_dump(exclude={"ratio", "predictor_weight"}) == distilled.method.model_dump(
            exclude={"ratio", "predictor_weight"}
        )
        assert baseline.train == distilled.train
    assert [peak_rate.train.peak_learning_rate for peak_rate in configs[::2]] == pytest.approx([6e-4, 6e-4, 5.2e-4])
    assert [getattr(config.method, "ratio", None) for config in configs] == [0.0, 1.0, 0.0, 0.8, 0.0, 0.8]
