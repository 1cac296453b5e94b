"""The figures of a report: which there are, what they show, and that the same runs give the same bytes."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.figures import report_figures
from orchestrator.figures.classes import bin_means, class_axis, per_class_figure
from orchestrator.figures.layers import layer_accuracies, whole_network_protocols
from orchestrator.figures.networks import both_networks, paired_protocols
from orchestrator.figures.placement import Placement
from orchestrator.figures.style import drawing
from orchestrator.figures.training import read_curves
from orchestrator.report.model import ClassPanel, DrawnFigure, Report
from orchestrator.runs import ExperimentView, RunView
from tests.unit.orchestrator.figures.fabricated import Fabricated, reported

pytestmark = pytest.mark.filterwarnings("error")  # such as a layout that does not fit

Material = tuple[Report, ExperimentView, list[RunView]]
ALL = ["per_class", "groups", "layers", "training", "networks"]


def drawn(folder: Path, runs: dict[tuple[str, str, int], Fabricated]) -> dict[str, DrawnFigure]:
    """Figures by name."""
    return {figure.name: figure for figure in report_figures(*reported(folder, runs))}


def grid(rows: int, profiles: int = 2, seeds: int = 2, **options: object) -> dict[tuple[str, str, int], Fabricated]:
    """So many methods on so many profiles."""
    return {
        (f"method {row}", f"profile {profile}", seed): Fabricated(level=40.0 + row + seed, **options)  # type: ignore[arg-type]
        for row in range(rows)
        for profile in range(profiles)
        for seed in range(seeds)
    }


def shown(svg: bytes) -> list[str]:
    """Every text of a figure."""
    return [text.strip() for text in ET.fromstring(svg).itertext() if text.strip()]


def panels(figure: DrawnFigure) -> int:
    """Number of pairs of axes, twins apart."""
    return len(set(re.findall(r'id="axes_(\d+)"', figure.svg.decode())))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Two methods on two profiles and two seeds, with everything measured."""
    return reported(tmp_path_factory.mktemp("runs"), grid(2))


@pytest.fixture(scope="module")
def figures(material: Material) -> dict[str, DrawnFigure]:
    """Those of all of it."""
    return {figure.name: figure for figure in report_figures(*material)}


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_every_figure_that_there_are_numbers_for(figures: dict[str, DrawnFigure]) -> None:
    assert list(figures) == ALL
    for figure in figures.values():
        assert {"method 0", "method 1", "profile 0", "profile 1"} <= set(shown(figure.svg)), figure.name
        assert figure.svg.startswith(b"<?xml")
        assert figure.png.startswith(b"\x89PNG")
        assert figure.pdf.startswith(b"%PDF")
        assert "n = 2" in figure.caption
    assert {"airplane", "many", "chance", "knn accuracy (%)"} <= set(shown(figures["per_class"].svg))
    assert {"training loss", "knn top-1 (%)", "knn_teacher top-1 (%)"} <= set(shown(figures["training"].svg))
    assert panels(figures["training"]) == 6
    assert {"knn top-1 (%)", "knn_teacher top-1 (%)", "block"} <= set(shown(figures["layers"].svg))
    assert {"student, knn top-1 (%)", "teacher ahead, knn (points)"} <= set(shown(figures["networks"].svg))
    assert panels(figures["networks"]) == 6, "knn and linear at the end, and knn on the way"


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    assert list(drawn(tmp_path / "resnet", grid(1, blocks=0, networks=("",)))) == ["per_class", "groups", "training"]
    assert not drawn(tmp_path / "none", {})


def test_runs_that_still_work_have_their_curves(tmp_path: Path) -> None:
    figures = drawn(tmp_path / "working", grid(1, is_finished=False, epochs=3))
    assert list(figures) == ["training"]
    assert "n =" not in figures["training"].caption
    runs = grid(1, profiles=1, seeds=1, blocks=0, networks=("",))
    runs |= {("method 0", "profile 0", 1): Fabricated(is_finished=False, epochs=2)}
    assert "(n = 1)" in drawn(tmp_path / "one", runs)["training"].caption


def test_rows_that_miss_a_group_leave_a_gap_and_keep_their_looks(tmp_path: Path) -> None:
    runs = grid(3, seeds=1, networks=("",))
    runs = {key: run for key, run in runs.items() if key[:2] != ("method 1", "profile 0")}
    report, experiment, views = reported(tmp_path, runs)
    placement = Placement.of(experiment, report)
    assert placement.rows == ("method 0", "method 1", "method 2")
    assert placement.finished("method 1", "profile 0") == []
    for figure in report_figures(report, experiment, views):
        assert "method 1" in shown(figure.svg)
        assert panels(figure) >= 2


@pytest.mark.parametrize("rows", [1, 12, 30])
def test_any_number_of_rows_is_named(tmp_path: Path, rows: int) -> None:
    figures = drawn(tmp_path, grid(rows, profiles=1, seeds=1, blocks=2, networks=("",)))
    for figure in figures.values():
        assert {f"method {row}" for row in range(rows)} <= set(shown(figure.svg)), figure.name
    # Bars need a legend, once for all panels; many rows are named in front of their points.
    assert shown(figures["groups"].svg).count("method 0") == 1
    assert ("with a band" in figures["layers"].caption) == (rows <= 12)  # bands of more would hide each other


@pytest.mark.parametrize("number", [10, 100, 1000])
def test_any_number_of_classes(tmp_path: Path, number: int) -> None:
    classes = [f"class {place}" for place in range(number)]
    runs = grid(2, profiles=1, classes=classes, blocks=0) | {
        ("method 0", "balanced", 0): Fabricated(classes=classes, blocks=0, is_long_tailed=False)
    }
    report, experiment, _ = reported(tmp_path, runs)
    with drawing():
        (svg,) = per_class_figure(report, Placement.of(experiment, report), "svg")
    texts = shown(svg)
    assert ("class 0" in texts) == (number == 10)
    assert (f"training images (bins of {number // 20} classes)" in texts) == (number > 20)
    if number > 20:
        assert f"class, most frequent first (bins of {number // 20}; 50 images each)" in texts
    assert len(svg) < 300_000


def test_names_that_matplotlib_would_read_otherwise(tmp_path: Path) -> None:
    names = ("$x^2$", "_background", "개", "a" * 100, "\\alpha", "<b>&")
    figures = drawn(tmp_path, {(name, "profile", 0): Fabricated(classes=names, blocks=0) for name in names})
    for figure in figures.values():
        assert {"$x^2$", "_background", "개", "\\alpha", "<b>&"} <= set(shown(figure.svg)), figure.name
        assert not any(len(text) > 50 for text in shown(figure.svg))


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_same_runs_give_the_same_bytes_whatever_the_users_settings(
    material: Material, figures: dict[str, DrawnFigure]
) -> None:
    from matplotlib import rc_context

    with rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": None}):
        assert report_figures(*material) == list(figures.values())


def test_pdf_files_fit_a_page_and_have_fonts_that_conferences_take(figures: dict[str, DrawnFigure]) -> None:
    for figure in figures.values():
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", figure.pdf)
        assert box is not None
        assert float(box[1]) <= 6.9 * 72 + 1
        assert b"/Type3" not in figure.pdf


def test_a_damaged_metrics_file_is_named(tmp_path: Path) -> None:
    material = reported(tmp_path, grid(1, profiles=1, seeds=1))
    damaged = material[2][0].run_dir.metrics_path
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    with pytest.raises(EnvironmentProblem, match=re.escape(str(damaged))):
        report_figures(*material)


def test_drawing_is_imported_only_to_draw() -> None:
    script = "import sys, orchestrator.figures; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "jinja2", "mlflow", "torch"} & set(done.stdout.split())


# --- the numbers behind -----------------------------------------------------------------------------------------------


def panel(*counts: int) -> ClassPanel:
    names = tuple(f"class {place}" for place in range(len(counts)))
    return ClassPanel("group", names, counts, (), (), 1.0)


def test_bins_of_classes_stand_at_their_frequency() -> None:
    many = class_axis(panel(*[round(1000 * 0.95**place) for place in range(100)]))
    assert (many.size, len(many.starts), many.is_frequency) == (5, 20, True)
    assert many.x[0] == pytest.approx((1000 * 950 * 902 * 857 * 815) ** 0.2, rel=1e-3)
    assert (np.diff(many.x) < 0).all()
    balanced = class_axis(panel(*[50] * 50))
    assert (balanced.size, balanced.is_frequency) == (3, False)
    assert balanced.x[:2].tolist() == [0.5, 3.0]
    few = class_axis(panel(500, 50, 5))
    assert (few.size, few.is_frequency, few.x.tolist()) == (1, False, [0.0, 1.0, 2.0])


def test_classes_that_were_not_measured_do_not_count() -> None:
    means = bin_means({"a": 10.0, "c": 30.0, "d": 50.0}, ["a", "b", "c", "d", "e"], [0, 2, 4])
    np.testing.assert_array_equal(means, [10.0, 40.0, np.nan])


def test_blocks_are_told_from_networks_and_protocols() -> None:
    metrics = {
        "eval/knn_layer10/top1": 10.0,
        "eval/knn_layer2/top1": 2.0,
        "eval/knn_layer2_teacher/top1": 3.0,
        "eval/transfer_pets_linear_layer1/top1": 4.0,
        "eval/knn_layer2/many": 5.0,
        "eval/knn/top1": 6.0,
        "eval/knn_teacher/top1": 7.0,
    }
    assert layer_accuracies(metrics) == {
        "knn": {2: 2.0, 10: 10.0},
        "knn_teacher": {2: 3.0},
        "transfer_pets_linear": {1: 4.0},
    }
    assert whole_network_protocols(metrics) == ("knn", "knn_teacher")


def test_student_and_teacher_whichever_the_paper_evaluates() -> None:
    assert both_networks({"eval/knn/top1": 60.0, "eval/knn_teacher/top1": 62.0}, "knn") == (60.0, 62.0)
    assert both_networks({"eval/knn/top1": 62.0, "eval/knn_student/top1": 60.0}, "knn") == (60.0, 62.0)
    assert both_networks({"eval/knn/top1": 62.0, "eval/knn_student/top1": 0.0}, "knn") == (0.0, 62.0)
    assert both_networks({"eval/knn/top1": 62.0}, "knn") is None
    names = [
        f"eval/{name}/top1" for name in ("geo", "knn", "knn_teacher", "linear", "linear_teacher", "a", "a_student")
    ]
    assert paired_protocols(names, ["eval/linear/top1"]) == ("linear", "a")


def test_the_teachers_lead_is_measured_run_by_run(tmp_path: Path) -> None:
    report, experiment, views = reported(tmp_path, grid(1, profiles=1, seeds=3))
    curves = read_curves(Placement.of(experiment, report), {view.run_id: view.run_dir for view in views})
    lead = curves["method 0", "profile 0"]["gap/knn"]
    assert lead.x.tolist() == [2.0, 4.0]
    assert lead.mean.tolist() == [2.0, 2.0]
    assert lead.std.tolist() == [0.0, 0.0], "the levels of the seeds differ, but not by how much the teacher is ahead"
