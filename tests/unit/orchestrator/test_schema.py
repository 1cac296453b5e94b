"""The typed sections, and what a user is told about values that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.errors import InputError
from orchestrator.experiment import Local, Ray, Resources, Slurm, load_experiment
from orchestrator.experiment.explain import TRANSLATED, problems_of
from orchestrator.experiment.nodes import Entry, ListNode, MapNode, Node, Position, ScalarNode
from orchestrator.experiment.schema import Options, seconds_of
from orchestrator.experiment.settings import complete, normalised
from orchestrator.experiment.shape import paths, section_shape
from orchestrator.state import Cause
from trainers.config import RunConfig


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems(text: str, *overrides: str) -> list[str]:
    Path("x.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_experiment("x.yaml", overrides, {}).cells()
    return str(caught.value).split("\n")


BASE = "name: a\nbase:\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Names that do not exist, with the nearest that does.
        (
            BASE + "  method: {name: isd, queue_sise: 4}\n",
            "x.yaml:3:23: method.queue_sise is not an option of method isd; did you mean queue_size? (options: ",
        ),
        (
            BASE + "  backbone: {name: vit_tiny, stem: small}\n",
            "x.yaml:3:30: backbone.stem is not an option of backbone vit_tiny, but of resnet18, resnet50 (options",
        ),
        (
            BASE + "  method: isdd\n",
            "x.yaml:3:11: method=isdd is not known; did you mean isd? (known: moco_v1, moco_v2, moco_v3, isd",
        ),
        (
            BASE + "  method: {name: zzz}\n",
            "x.yaml:3:11: method=zzz is not known (known: moco_v1, moco_v2, moco_v3, isd",
        ),
        (
            BASE + "  epochs: 3\n",
            "x.yaml:3:3: epochs is not a setting of a run; did you mean train.epochs? (sections: ",
        ),
        (
            BASE + "  trian: {epochs: 3}\n",
            "x.yaml:3:3: trian is not a setting of a run; did you mean train? (sections: ",
        ),
        (
            BASE + "  train: {shedule: step}\n",
            "x.yaml:3:11: train.shedule is not an option of train; did you mean schedule?",
        ),
        (BASE + "  train.epoch: 3\n", "x.yaml:3:3: train.epoch is not an option of train; did you mean epochs?"),
        (
            "name: a\ntrain: {epochs: 3}\n",
            "x.yaml:2:1: train is not a section of an experiment file; did you mean base.train?",
        ),
        (
            "name: a\ngird: {}\n",
            "x.yaml:2:1: gird is not a section of an experiment file; did you mean grid? (sections: name, ",
        ),
        (
            "name: a\nbatch_size: 3\n",
            "x.yaml:2:1: batch_size is not a section of an experiment file; did you mean base.train",
        ),
        (
            "name: a\nbackend: slrum\n",
            "x.yaml:2:10: backend=slrum is not known; did you mean slurm? (known: local, slurm, ray)",
        ),
        (
            "name: a\nbackend: {name: local, partition: gpu}\n",
            "x.yaml:2:24: backend.partition is not an option of backend local, but of slurm (options: max_parallel)",
        ),
        (
            "name: a\nresources: {gpus: 1}\n",
            "x.yaml:2:13: resources.gpus is not an option of resources; did you mean gpus_per_node? (options: nodes, ",
        ),
        # Wrong types, in YAML's words.
        (BASE + "  train: {epochs: abc}\n", "x.yaml:3:19: train.epochs=abc is text, where a whole number is expected"),
        (
            BASE + "  train: {epochs: 3.5}\n",
            "x.yaml:3:19: train.epochs=3.5 is a number, where a whole number is expected",
        ),
        (
            BASE + "  train: {epochs: true}\n",
            "x.yaml:3:19: train.epochs=true is true or false, where a whole number is expected",
        ),
        (BASE + "  train: {epochs: }\n", "x.yaml:3:19: train.epochs is null, where a whole number is expected"),
        (
            BASE + "  train: {epochs: [3]}\n",
            "x.yaml:3:19: train.epochs=[3] is a list, where a whole number is expected",
        ),
        (
            BASE + "  train: {epochs: {a: 1}}\n",
            "x.yaml:3:19: train.epochs={a: 1} is a mapping, where a whole number is expected",
        ),
        (
            BASE + "  train: {learning_rate: '0.1'}\n",
            "x.yaml:3:26: train.learning_rate=0.1 is text, where a number is expected; write it without quotes: 0.1",
        ),
        (
            BASE + "  train: {decay_matrices_only: yes}\n",
            "x.yaml:3:32: train.decay_matrices_only=yes is text, where true or false is expected; "
            "write true or false, without quotes",
        ),
        (BASE + "  train: 5\n", "x.yaml:3:10: train=5 is a whole number, where a mapping is expected"),
        (
            BASE + "  method: 3\n",
            "x.yaml:3:11: method=3 is a whole number, "
            "where a name (moco_v1, moco_v2, moco_v3, isd, simclr, byol, byol_asym, sdssl, supervised, random) "
            "or a mapping with a name is expected",
        ),
        (BASE + "  method: {name: 3}\n", "x.yaml:3:11: method=3 is not known (known: "),
        (
            BASE + "  data: {label: 7}\n",
            'x.yaml:3:17: data.label=7 is a whole number, where text is expected; put it into quotes: "7"',
        ),
        (BASE + "  augment: {jitter: x}\n", "x.yaml:3:21: augment.jitter=x is text, where a list is expected"),
        (
            BASE + "  augment: {crop_area: [a, 1]}\n",
            "x.yaml:3:25: augment.crop_area=[a, 1] holds a, which is text, where a number is expected",
        ),
        # Values out of range.
        (BASE + "  train: {epochs: 0}\n", "x.yaml:3:19: train.epochs=0 is out of range; at least 1 is expected"),
        (
            BASE + "  train: {learning_rate: 0}\n",
            "x.yaml:3:26: train.learning_rate=0 is out of range; more than 0 is expected",
        ),
        (BASE + "  method: {momentum: 2}\n", "x.yaml:3:22: method.momentum=2 is out of range; at most 1 is expected"),
        (
            BASE + "  train: {optimizer: {name: adamw, beta1: 1}}\n",
            "x.yaml:3:43: train.optimizer.beta1=1 is out of range; less than 1 is expected",
        ),
        (
            BASE + "  train: {precision: fp16}\n",
            "x.yaml:3:22: train.precision=fp16 is not known; did you mean bf16? (known: fp32, bf16)",
        ),
        (
            BASE + "  augment: {crop_area: [1]}\n",
            "x.yaml:3:24: augment.crop_area=[1] has too few values; 2 are expected",
        ),
        (BASE + "  augment: {jitter: []}\n", "x.yaml:3:21: augment.jitter=[] has too few values; 4 are expected"),
        (
            BASE + "  augment: {crop_area: [0, 1, 1]}\n",
            "x.yaml:3:24: augment.crop_area=[0, 1, 1] has too many values; at most 2 are expected",
        ),
        (
            BASE + "  evaluate: {knn: {k: []}}\n",
            "x.yaml:3:23: evaluate.knn.k=[] has too few values; at least 1 is expected",
        ),
        (
            BASE + "  evaluate: {knn: {k: [20, 0]}}\n",
            "x.yaml:3:28: evaluate.knn.k=[20, 0] holds 0, which is out of range; at least 1 is expected",
        ),
        # Options that do not fit together.
        (
            BASE + "  augment: {crop_area: [0.9, 0.2]}\n",
            "x.yaml:3:12: augment: crop_area=[0.9, 0.2] must be [smallest, largest] share of the image",
        ),
        (
            BASE + "  train.batch_size: 100\n  method: {name: isd, queue_size: 1050}\n",
            "x.yaml:4:35: queue_size=1050 is not a multiple of train.batch_size=100; 1000 or 1100 would be",
        ),
        (BASE + "  method: sdssl\n", "x.yaml:3:11: method sdssl distils every block of a vision transformer"),
        (
            "name: a\nresources: {gpus_per_node: 3}\n",
            "x.yaml:2:12: train.batch_size=256 cannot be divided over 3 processes (nodes=1, processes per node: 3)",
        ),
        (
            BASE + "  method: simclr\n  train.accumulation: 64\nresources: {gpus_per_node: 8}\n",
            "x.yaml:5:12: train.batch_size=256 in train.accumulation=64 parts cannot be divided over 8 processes",
        ),
        (
            BASE + "  method: {name: isd, bn_group_size: 64}\nresources: {nodes: 2, gpus_per_node: 4}\n",
            "x.yaml:4:12: the 4 batch-norm groups of method.bn_group_size=64 cannot be dealt to 8 processes (nodes=2,",
        ),
        # The other sections.
        ("base: {}\n", "x.yaml:1:1: the experiment has no name; add one, such as `name: my-experiment`"),
        ("name: a/b\n", "x.yaml:1:7: name: 'a/b' is not a name; use up to 100 letters"),
        ("name: ..\n", "x.yaml:1:7: name: '..' is not a name"),
        ("name: 3\n", 'x.yaml:1:7: name=3 is a whole number, where text is expected; put it into quotes: "3"'),
        ("name: a\nresources: {memory: lots}\n", "x.yaml:2:21: resources.memory: 'lots' is not an amount of memory"),
        ("name: a\nresources: {time: soon}\n", "x.yaml:2:19: resources.time: 'soon' is not a time limit"),
        ("name: a\nretries: {failed: -1}\n", "x.yaml:2:19: retries.failed=-1 is out of range; at least 0 is expected"),
        (
            "name: a\nbackend: {name: slurm, sbatch: {exclusive: false}}\n",
            "x.yaml:2:44: backend.sbatch.exclusive: false is no value for sbatch; leave the option out",
        ),
        (
            "name: a\nbackend: {name: slurm, sbatch: {--nice: 1}}\n",
            "x.yaml:2:32: backend.sbatch: '--nice' is not an option of",
        ),
        (
            'name: a\nbackend: {name: slurm, account: "a\\nb"}\n',
            "x.yaml:2:33: backend.account: must be one line of printable characters",
        ),
        (
            "name: a\nreport: {rows: methd}\n",
            "x.yaml:2:16: report.rows: methd is not a setting of a run; did you mean method?",
        ),
        (
            "name: a\nreport: {columns: [seed, data.profil]}\n",
            "x.yaml:2:26: report.columns: data.profil is not a setting of a run; did you mean data.profile?",
        ),
        (
            "name: a\nreport: {metrics: []}\n",
            "x.yaml:2:19: report.metrics=[] has too few values; at least 1 is expected",
        ),
        ("name: a\nbase: [1]\n", "x.yaml:2:7: base is a list, where a mapping of settings is expected"),
        ("name: a\nbase: {resources: {nodes: 1}}\n", "x.yaml:2:8: resources is a section of the file, beside base"),
    ],
)
def test_one_line_says_where_and_what_and_what_would_be_right(text: str, expected: str) -> None:
    first, *others = problems(text)
    assert first.startswith(expected)
    assert others == []


def test_several_problems_are_reported_at_once_each_on_its_line() -> None:
    assert problems(BASE + "  train: {epochs: x, batch_size: 0}\n  seed: -1\n") == [
        "x.yaml:3:19: train.epochs=x is text, where a whole number is expected",
        "x.yaml:3:34: train.batch_size=0 is out of range; at least 1 is expected",
        "x.yaml:4:9: seed=-1 is out of range; at least 0 is expected",
    ]


def test_no_more_than_five_are_shown() -> None:
    lines = problems("name: a\ngrid:\n  seed: [a, b, c, d, e, f, g, 1]\n")
    assert len(lines) == 6
    assert lines[0].startswith("x.yaml:3:10: seed=a is text")
    assert lines[-1] == "... and 2 more problems"


def test_a_problem_points_at_the_setting_that_won(tmp_path: Path) -> None:
    Path("below.yaml").write_text("base: {train: {epochs: 0, batch_size: 0}}\n")
    text = "name: a\nextends: below.yaml\nbase: {train.epochs: 5}\n"
    assert problems(text) == ["below.yaml:1:39: train.batch_size=0 is out of range; at least 1 is expected"]
    assert problems(text, "train.batch_size=-1") == [
        "--set train.batch_size=-1: train.batch_size=-1 is out of range; at least 1 is expected"
    ]
    assert problems(text + "when: [{if: {seed: 0}, set: {train.batch_size: x}}]\n")[0].startswith("x.yaml:4:48: ")
    assert problems(text + "grid: {train.batch_size: [256, y]}\n")[0].startswith("x.yaml:4:32: ")


def test_a_problem_of_several_cells_is_reported_once_with_their_number() -> None:
    text = (
        BASE
        + "  train.batch_size: 96\ngrid: {seed: [0, 1, 2], method: [{name: isd, queue_size: 960, bn_group_size: 64}]}\n"
    )
    (line,) = problems(text)
    assert line.startswith("x.yaml:4:78: train.batch_size=96 is not a multiple of bn_group_size=64")
    assert line.endswith("(in seed=0 method=isd and 2 more)")


# Every mistake that the models can find must have a sentence of ours.

AT = Position("x.yaml", 1, 1)


def as_node(value: Any) -> Node:
    if isinstance(value, dict):
        return MapNode({key: Entry(AT, as_node(item)) for key, item in value.items()}, AT)
    if isinstance(value, list):
        return ListNode(tuple(as_node(item) for item in value), AT)
    return ScalarNode(value, AT)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10), st.floats(-2, 2), st.sampled_from(["", "isd", "x", "small", "a\nb"])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.sampled_from(["name", "zz", "k"]), inner)),
    max_leaves=4,
)


def nested(path: str, value: Any, name: str | None) -> dict[str, Any]:
    *parents, last = path.split(".")
    result = {last: value} if name is None else {"name": name, last: value}
    for key in reversed(parents):
        result = {key: result}
    return result


COMPONENTS = [
    None,
    "moco_v2",
    "isd",
    "sdssl",
    "resnet18",
    "vit_tiny",
    "balanced",
    "long_tailed",
    "sgd",
    "step",
    "slurm",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    model=st.sampled_from([RunConfig, Options]),
    data=st.data(),
    value=values,
    name=st.sampled_from(COMPONENTS),
)
def test_every_kind_of_validation_error_has_its_own_words(
    model: Any, data: st.DataObject, value: Any, name: str | None
) -> None:
    shape = section_shape(model)
    path = data.draw(st.sampled_from(sorted(set(paths(shape)))))
    node = normalised(as_node(nested(path, value, name)), shape)
    assert isinstance(node, MapNode)
    try:
        model.model_validate(complete(node, shape))
    except ValidationError as error:
        kinds = {detail["type"] for detail in error.errors()}
        assert kinds <= TRANSLATED
        for problem in problems_of(error, node, shape):
            assert "\n" not in str(problem)
            assert "pydantic" not in problem.message
            assert "Input should" not in problem.message


class TestResources:
    def test_defaults_are_one_process_without_gpu(self) -> None:
        assert (Resources().world_size, Resources().time_s, Resources().memory_mb) == (1, None, None)

    @pytest.mark.parametrize(
        ("time", "seconds"),
        [
            ("90", 5400),
            ("1:30", 90),
            ("12:00:00", 43200),
            ("2-0", 172800),
            ("1-12:30", 131400),
            ("1-00:00:01", 86401),
        ],
    )
    def test_time_in_slurms_forms(self, time: str, seconds: int) -> None:
        assert seconds_of(time) == seconds

    @pytest.mark.parametrize("time", ["", "0", "0:00:00", "1:2:3:4", "-5", "1h", "٣"])
    def test_what_is_no_time(self, time: str) -> None:
        with pytest.raises(ValueError, match="is not a time limit"):
            seconds_of(time)

    def test_minutes_may_be_a_number(self) -> None:
        assert Resources.model_validate({"time": 90}).time_s == 5400

    @pytest.mark.parametrize(
        ("memory", "mib"), [("32G", 32768), ("500M", 500), ("1T", 2**20), ("1K", 1), ("7", 7), ("2gb", 2048)]
    )
    def test_memory(self, memory: str, mib: int) -> None:
        assert Resources(memory=memory).memory_mb == mib

    def test_one_process_per_gpu_unless_told(self) -> None:
        assert Resources(nodes=2, gpus_per_node=4).world_size == 8
        assert Resources(nodes=2, gpus_per_node=4, processes_per_node=1).world_size == 2
        assert Resources(processes_per_node=2).world_size == 2

    def test_a_dump_reads_back_as_the_same(self) -> None:
        resources = Resources.model_validate({"time": 90, "memory": "32G", "nodes": 2})
        assert Resources.model_validate(resources.model_dump(mode="json")) == resources


def options(text: str, *overrides: str) -> Any:
    Path("x.yaml").write_text("name: a\n" + text)
    return load_experiment("x.yaml", overrides, {})


class TestSections:
    def test_without_sections_everything_has_its_default(self) -> None:
        experiment = options("")
        assert experiment.backend == Local()
        assert experiment.tracking.uri is None
        assert experiment.report.rows == ("method",)
        assert [experiment.retries.budget(cause) for cause in Cause] == [0, 2, 1000, 1000, 10, 1, 0, 5]

    def test_a_section_without_content_is_as_good_as_not_written(self) -> None:
        names = ("base", "grid", "zip", "when", "exclude", "include", "resources", "backend", "tracking", "extends")
        experiment = options("".join(f"{name}:\n" for name in names))
        assert experiment.options == options("").options
        assert len(experiment.cells()) == 1

    def test_backend_is_a_component(self) -> None:
        assert options("backend: ray\n").backend == Ray()
        slurm = "backend: {name: slurm, partition: gpu, sbatch: {exclusive: true, nice: 10, comment: x y}}\n"
        expected = Slurm(partition="gpu", sbatch={"exclusive": "", "nice": "10", "comment": "x y"})
        assert options(slurm).backend == expected
        assert options(slurm, "backend.max_parallel=3").backend == expected.model_copy(update={"max_parallel": 3})
        assert options(slurm, "backend=local").backend == Local()
        assert options(slurm, "backend=local", "backend.max_parallel=3").backend == Local(max_parallel=3)

    def test_rows_may_be_one_name_or_several(self) -> None:
        report = options("report: {rows: method, columns: [data.profile, train.batch_size], over: seed}\n").report
        assert (report.rows, report.columns, report.over) == (
            ("method",),
            ("data.profile", "train.batch_size"),
            ("seed",),
        )

    def test_unquoted_time_is_what_it_says(self) -> None:
        assert options("resources: {time: 12:00:00}\n").resources.time_s == 43200

    def test_sections_are_frozen(self) -> None:
        with pytest.raises(ValidationError):
            options("").resources.nodes = 3


def test_paths_cover_the_options_of_all_components() -> None:
    known = set(_all_paths())
    assert {
        "method.queue_size",
        "method.ratio",
        "data.profile.imbalance",
        "train.schedule.milestones",
        "evaluate.knn.k",
    } <= known


def _all_paths() -> Iterator[str]:
    yield from paths(section_shape(RunConfig))
