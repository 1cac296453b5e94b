"""Expansion: which runs a file stands for, in which order, under which labels."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.experiment import Cell, Experiment, label, load_experiment
from trainers.config import ISD, SDSSL, Balanced, LongTailed, MoCoV2, RunConfig, ViTTiny


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def experiment(text: str, *overrides: str, **files: str) -> Experiment:
    for name, content in files.items():
        Path(f"{name}.yaml").write_text(content)
    Path("x.yaml").write_text(f"name: x\n{text}")
    return load_experiment("x.yaml", overrides, {})


def cells(text: str, *overrides: str, **files: str) -> list[Cell]:
    return experiment(text, *overrides, **files).cells()


def titles(text: str, *overrides: str, **files: str) -> list[str]:
    return [cell.title for cell in cells(text, *overrides, **files)]


def error(text: str, *overrides: str, **files: str) -> str:
    with pytest.raises(InputError) as caught:
        cells(text, *overrides, **files)
    return str(caught.value)


DESIGN = """
base:
  data: {name: cifar10, root: "${env:DATA_ROOT:-data}"}
  backbone: resnet18
  train: {epochs: 200, batch_size: 256}
  evaluate: {knn: {k: [1, 20]}}
grid:
  method: [moco_v2, isd, {name: sdssl, base: moco_v3, ratio: 1.0}]
  data.profile: [balanced, {name: long_tailed, imbalance: 100}]
  seed: [0, 1, 2]
zip:
  - {train.batch_size: [256, 512], train.learning_rate: [0.06, 0.12]}
when:
  - {if: {method: sdssl}, set: {backbone: {name: vit_tiny, patch_size: 4}}}
exclude: [{method: sdssl, data.profile: balanced, seed: [1, 2]}]
include: [{method: moco_v2, data.profile: balanced, seed: 9}]
resources: {nodes: 1, gpus_per_node: 1, cpus_per_node: 8, memory: 32G, time: "12:00:00"}
backend: {name: slurm, partition: gpu, max_parallel: 32}
tracking: {uri: "sqlite:///mlflow.db"}
report: {rows: method, columns: data.profile, metrics: [eval/knn/top1, eval/linear/top1], over: seed}
"""


class TestProduct:
    def test_the_file_of_the_design(self) -> None:
        loaded = experiment(DESIGN)
        runs = loaded.cells()
        assert loaded.axes == ("method", "data.profile", "seed", "train.batch_size", "train.learning_rate")
        assert len(runs) == 3 * 2 * 3 * 2 - 4 + 1
        assert [cell.index for cell in runs] == list(range(len(runs)))
        assert len({cell.run_id for cell in runs}) == len(runs)
        assert {type(cell.config.backbone) for cell in runs if isinstance(cell.config.method, SDSSL)} == {ViTTiny}
        assert runs[1].config.train.batch_size == 512
        assert runs[1].config.train.learning_rate == 0.12
        assert [(count.text, count.cells) for count in loaded.expansion.changed] == [("{method: sdssl}", 12)]
        assert [count.cells for count in loaded.expansion.excluded] == [4]

    def test_axes_in_file_order_the_last_one_fastest(self) -> None:
        assert titles("grid: {seed: [1, 0], train.epochs: [5, 6]}\n") == [
            "seed=1 train.epochs=5",
            "seed=1 train.epochs=6",
            "seed=0 train.epochs=5",
            "seed=0 train.epochs=6",
        ]

    def test_without_a_grid_there_is_one_run(self) -> None:
        (cell,) = cells("base: {train: {epochs: 3}}\n")
        assert cell.config.train.epochs == 3
        assert (cell.axes, cell.title) == ({}, "the only run")

    def test_groups_of_zip_move_together_and_multiply(self) -> None:
        text = (
            "grid: {seed: [0, 1]}\n"
            "zip: [{train.epochs: [5, 6], train.learning_rate: [0.1, 0.2]}, {data.split_seed: [8, 9]}]\n"
        )
        assert [title.replace("train.", "").replace("data.", "") for title in titles(text)] == [
            f"seed={seed} epochs={epochs} learning_rate={rate} split_seed={split}"
            for seed in (0, 1)
            for epochs, rate in ((5, 0.1), (6, 0.2))
            for split in (8, 9)
        ]

    def test_a_component_is_set_before_its_options_in_either_order(self) -> None:
        axes = ["method: [moco_v2, isd]", "method.queue_size: [512, 1024]"]
        found = [
            {(cell.axes["method"], cell.axes["method.queue_size"]) for cell in cells(f"grid: {{{', '.join(order)}}}\n")}
            for order in (axes, axes[::-1])
        ]
        assert found[0] == found[1] == {(name, size) for name in ("moco_v2", "isd") for size in ("512", "1024")}

    def test_an_axis_may_be_a_whole_section(self) -> None:
        text = "grid: {train: [{epochs: 5, batch_size: 64}, {epochs: 6}], augment: [{}, {blur_probability: 0.0}]}\n"
        assert titles(text) == [
            "train=epochs=5 batch_size=64 augment=blur_probability=none",
            "train=epochs=5 batch_size=64 augment=blur_probability=0",
            "train=epochs=6 batch_size=256 augment=blur_probability=none",
            "train=epochs=6 batch_size=256 augment=blur_probability=0",
        ]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("grid: {seed: 3}\n", "x.yaml:2:14: grid.seed=3 is no list of values; write [3], or move it to base"),
            ("grid: {seed: []}\n", "x.yaml:2:14: grid.seed has no values, so that the grid is empty"),
            ("grid: [seed]\n", "x.yaml:2:7: grid holds a list, where a mapping of axes is expected"),
            ("grid: {seeds: [1]}\n", "x.yaml:2:8: the axis seeds is not a setting of a run; did you mean seed?"),
            (
                "grid: {epochs: [1]}\n",
                "x.yaml:2:8: the axis epochs is not a setting of a run; did you mean train.epochs?",
            ),
            (
                "grid: {data.profle: [balanced]}\n",
                "x.yaml:2:8: the axis data.profle is not a setting of a run; did you mean",
            ),
            ("grid: {resources.nodes: [1]}\n", "x.yaml:2:8: resources.nodes cannot be an axis"),
            ("zip: {seed: [1]}\n", "x.yaml:2:6: zip is a mapping, where a list is expected"),
            (
                "zip: [{seed: [1, 2], train.epochs: [5]}]\n",
                "x.yaml:2:7: axes of one zip need equally many values; seed has 2, ",
            ),
            (
                "grid: {seed: [1]}\nzip: [{seed: [2]}]\n",
                "x.yaml:3:8: seed is an axis already, at x.yaml:2:8; keep one of them",
            ),
        ],
    )
    def test_axes_that_cannot_be(self, text: str, expected: str) -> None:
        assert error(text).startswith(expected)


class TestComponents:
    def test_the_same_name_adds_options_another_replaces(self) -> None:
        runs = cells("base: {method: {name: isd, queue_size: 1024}}\ngrid: {method: [isd, {momentum: 0.9}, moco_v2]}\n")
        assert [cell.config.method for cell in runs] == [
            ISD(queue_size=1024),
            ISD(queue_size=1024, momentum=0.9),
            MoCoV2(),
        ]

    def test_options_without_a_name_belong_to_the_default_component(self) -> None:
        (cell,) = cells("base: {method: {queue_size: 1024}, train.optimizer.momentum: 0.5}\n")
        assert cell.config.method == MoCoV2(queue_size=1024)
        assert cell.config.train.optimizer.name == "sgd"
        default, other = cells("base: {method: {queue_size: 1024}}\ngrid: {method: [moco_v2, isd]}\n")
        assert (default.config.method, other.config.method) == (MoCoV2(queue_size=1024), ISD())

    def test_a_data_set_keeps_its_other_settings(self) -> None:
        text = "base: {data: {name: digits, split_seed: 4}}\ngrid: {data: [digits, cifar10]}\n"
        assert [(cell.config.data.name, cell.config.data.split_seed) for cell in cells(text)] == [
            ("digits", 4),
            ("cifar10", 4),
        ]
        assert titles(text) == ["data=digits", "data=cifar10"]

    def test_lists_replace(self) -> None:
        (cell,) = cells(
            "base: {evaluate: {knn: {k: [7]}}}\nextends: below.yaml\n", below="base: {evaluate.knn.k: [1, 2]}\n"
        )
        assert cell.config.evaluate.knn is not None
        assert cell.config.evaluate.knn.k == (7,)

    def test_null_turns_an_optional_section_off_and_a_mapping_on(self) -> None:
        (off,) = cells("base: {evaluate: {knn: null}}\n")
        (on,) = cells("extends: below.yaml\nbase: {evaluate.knn: {}}\n", below="base: {evaluate: {knn: null}}\n")
        assert off.config.evaluate.knn is None
        assert on.config.evaluate.knn is not None

    def test_one_option_twice_in_one_mapping_is_refused(self) -> None:
        message = error("base: {train: {epochs: 1}, train.epochs: 2}\n")
        assert message.startswith("x.yaml:2:28: train.epochs is set twice in one mapping, first at x.yaml:2:8")
        assert "train.epochs is set twice" in error("base: {train: 1, train.epochs: 2}\n")
        assert "method.name is set twice" in error("base: {method: isd, method.name: moco_v2}\n")
        (cell,) = cells("base: {method: isd, method.queue_size: 512, augment: {}, augment.flip_probability: 1}\n")
        assert cell.config.method == ISD(queue_size=512)

    def test_a_path_that_is_absurdly_long(self) -> None:
        path = "train" + ".a" * 400
        for text in (f"base: {{{path}: 1}}\n", f"grid: {{{path}: [1]}}\n", f"include: [{{{path}: 1}}]\n"):
            assert error(text).startswith("x.yaml:2:")
        assert "401 deep" in error("base: {}\n", f"{path}=1")
        assert "is not a setting of a run" in error(f"exclude: [{{{path}: 1}}]\n")


def test_a_label_shows_no_path_and_what_a_component_must_be_given() -> None:
    text = "base: {data.name: image_folder}\ngrid:\n  data.profile:\n"
    lists = "".join(f"    - {{name: list_file, label: D{n}, path: lists/D{n}.txt}}\n" for n in (1, 2))
    assert titles(text + lists) == ["data.profile=list_file label=D1", "data.profile=list_file label=D2"]


class TestExtends:
    def test_later_files_win_and_this_file_wins_over_all(self) -> None:
        (cell,) = cells(
            "extends: [one.yaml, two.yaml]\nbase: {train.batch_size: 64}\n",
            one="base: {train: {epochs: 1, batch_size: 8, learning_rate: 0.5}}\nresources: {nodes: 1, memory: 3G}\n",
            two="base: {train: {epochs: 2}}\nresources: {nodes: 2}\n",
        )
        train = cell.config.train
        assert (train.epochs, train.batch_size, train.learning_rate) == (2, 64, 0.5)
        assert (cell.resources.nodes, cell.resources.memory) == (2, "3G")

    def test_paths_are_relative_to_the_file_that_writes_them(self) -> None:
        Path("recipes/deep").mkdir(parents=True)
        Path("recipes/a.yaml").write_text("extends: deep/b.yaml\n")
        Path("recipes/deep/b.yaml").write_text("extends: ../c.yaml\n")
        Path("recipes/c.yaml").write_text("base: {seed: x}\n")
        assert error("extends: recipes/a.yaml\n").startswith("recipes/deep/../c.yaml:1:14: seed=x is text")

    def test_axes_of_a_recipe_come_first(self) -> None:
        loaded = experiment(
            "extends: r.yaml\ngrid: {seed: [0], train.epochs: [1]}\n", r="grid: {method: [isd], seed: [5]}\n"
        )
        assert loaded.axes == ("method", "seed", "train.epochs")
        assert loaded.cells()[0].config.seed == 0

    def test_rules_of_recipes_add_up_and_the_files_own_come_last(self) -> None:
        (cell,) = cells(
            "extends: [one.yaml, two.yaml]\nwhen: [{if: {seed: 3}, set: {train.epochs: 7}}]\nbase: {method: isd}\n",
            one="when: [{if: {method: isd}, set: {seed: 3, train.epochs: 5}}]\n",
            two="when: [{if: {seed: 3}, set: {train: {epochs: 6, batch_size: 64}}}]\n",
        )
        assert (cell.config.seed, cell.config.train.epochs, cell.config.train.batch_size) == (3, 7, 64)

    def test_a_rule_that_comes_on_two_ways_is_applied_once_and_first(self) -> None:
        (cell,) = cells(
            "extends: [a.yaml, b.yaml]\n",
            a="extends: c.yaml\nwhen: [{if: {seed: 0}, set: {train.epochs: 7}}]\n",
            b="extends: c.yaml\n",
            c="when: [{if: {seed: 0}, set: {train.epochs: 5}}]\n",
        )
        assert cell.config.train.epochs == 7

    def test_the_digest_covers_every_file(self) -> None:
        first = experiment("extends: r.yaml\n", r="base: {seed: 1}\n").digest
        assert experiment("extends: r.yaml\n", r="base: {seed: 1}\n").digest == first
        assert experiment("extends: r.yaml\n", r="base: {seed: 2}\n").digest != first

    def test_a_diamond_is_fine_and_a_circle_is_named(self) -> None:
        assert cells("extends: [a.yaml, b.yaml]\n", a="extends: c.yaml\n", b="extends: c.yaml\n", c="base: {seed: 3}\n")
        message = error("extends: a.yaml\n", a="extends: b.yaml\n", b="extends: a.yaml\n")
        assert message == (
            "b.yaml:1:10: the files extend one another in a circle: x.yaml -> a.yaml -> b.yaml -> a.yaml"
        )

    def test_a_missing_file_is_named_where_it_is_extended(self) -> None:
        assert error("extends: [nope.yaml]\n") == "x.yaml:2:11: extends nope.yaml, and there is no file nope.yaml"
        assert error("extends: ['']\n") == "x.yaml:2:11: extends '', and there is no file ."
        assert error('extends: "a\\0b"\n') == "x.yaml:2:10: extends 'a\\x00b', and there is no file a\\x00b"
        assert error(f"extends: {'a' * 5000}\n").startswith("x.yaml:2:10: extends aaa")
        assert error("extends: [3]\n").startswith("x.yaml:2:11: extends holds a whole number, where the path of a file")


class TestRules:
    def test_rules_apply_in_order_and_see_what_earlier_ones_set(self) -> None:
        text = (
            "grid: {method: [moco_v2, isd]}\nwhen:\n"
            "- {if: {method: isd}, set: {train.epochs: 7}}\n"
            "- {if: {train.epochs: 7}, set: {train: {batch_size: 64}}}\n"
        )
        assert [(cell.config.train.epochs, cell.config.train.batch_size) for cell in cells(text)] == [
            (200, 256),
            (7, 64),
        ]

    @pytest.mark.parametrize(
        ("pattern", "seeds"),
        [
            ("{seed: 1}", [1]),
            ("{seed: 1.0}", [1]),
            ("{seed: [0, 2]}", [0, 2]),
            ("{method: isd}", [0, 1, 2, 3]),
            ("{method: 'i*', seed: 3}", [3]),
            ("{method: {name: isd, queue_size: 128000}, seed: 0}", [0]),  # the default, not written
            ("{method.queue_size: 128000, seed: 0}", [0]),
            ("{method.queue_size: 1, seed: 0}", []),
            ("{method.ratio: 1.0}", []),  # an option of another component
            ("{data.profile: [{name: long_tailed, imbalance: 10}]}", [2]),
            ("{data.profile: [{name: long_tailed, imbalance: 100}]}", [3]),  # by default
            ("{data.profile: [{imbalance: [10]}]}", []),
            ("{data.profile.name: balanced}", [0, 1]),
            ("{train.decay_matrices_only: false, seed: 0}", [0]),
            ("{train.decay_matrices_only: 0}", []),  # false is no number
            ("{seed: true}", []),
            ("{evaluate.knn.k: [[20, 1, 200]], seed: 0}", [0]),
            ("{augment.blur_probability: null, seed: 0}", [0]),
            ("{resources.nodes: 1, seed: 0}", [0]),
        ],
    )
    def test_patterns(self, pattern: str, seeds: list[int]) -> None:
        text = (
            "base: {method: isd}\nzip: [{seed: [0, 1, 2, 3], "
            "data.profile: [balanced, balanced, {name: long_tailed, imbalance: 10}, long_tailed]}]\n"
            f"when: [{{if: {pattern}, set: {{train.epochs: 5}}}}]\n"
        )
        assert [cell.config.seed for cell in cells(text) if cell.config.train.epochs == 5] == seeds

    def test_resources_may_depend_on_the_cell(self) -> None:
        text = (
            "grid: {method: [moco_v2, isd]}\nresources: {cpus_per_node: 2}\n"
            "when: [{if: {method: isd}, set: {resources.gpus_per_node: 2, resources: {memory: 8G}}}]\n"
        )
        first, second = cells(text)
        assert (first.resources.gpus_per_node, first.resources.cpus_per_node, first.resources.memory) == (0, 2, None)
        assert (second.resources.gpus_per_node, second.resources.cpus_per_node, second.resources.memory) == (2, 2, "8G")
        assert [cell.run_id for cell in cells("grid: {method: [moco_v2, isd]}\n")] == [first.run_id, second.run_id]

    def test_exclude_sees_the_cells_as_they_will_run(self) -> None:
        text = "grid: {seed: [0, 1]}\nwhen: [{if: {seed: 1}, set: {train.epochs: 5}}]\nexclude: [{train.epochs: 5}]\n"
        assert titles(text) == ["seed=0"]

    def test_excluded_cells_need_not_be_valid(self) -> None:
        text = "grid: {backbone: [resnet18, vit_tiny], method: [moco_v2, sdssl]}\n"
        assert "is none; use vit_tiny" in error(text)
        assert len(cells(text + "exclude: [{method: sdssl, backbone: resnet18}]\n")) == 3

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("exclude: [{seed: 2}]\n", "x.yaml:3:11: exclude {seed: 2} matches no cell; correct it, or remove it"),
            ("exclude: [{seed: [0, 1]}]\n", "x.yaml:1:1: every cell is excluded, so that nothing is left to run"),
            ("exclude: {seed: 1}\n", "x.yaml:3:10: exclude is a mapping, where a list is expected"),
            ("exclude: [{}]\n", "x.yaml:3:11: exclude holds nothing, where a pattern is expected"),
            ("exclude: [seed]\n", "x.yaml:3:11: exclude holds text, where a pattern is expected"),
            ("exclude: [{sed: 1}]\n", "x.yaml:3:12: the pattern's sed is not a setting of a run; did you mean seed?"),
            ("exclude: [{method: moco}]\n", "x.yaml:3:20: method=moco is not known; did you mean moco_v3? (known: "),
            ("exclude: [{method: 'x*'}]\n", "x.yaml:3:20: method=x* is not known (known: "),
            ("exclude: [{data.name: cifar}]\n", "x.yaml:3:23: data.name=cifar is not known; did you mean cifar10?"),
            (
                "exclude: [{method: {queue: 3}}]\n",
                "x.yaml:3:28: the pattern's method.queue is not a setting of a run; did you",
            ),
            ("when: [{if: {seed: 1}}]\n", "x.yaml:3:8: a rule of when has two keys"),
            ("when: [{if: {seed: 1}, set: {foo: 1}}]\n", "x.yaml:3:30: foo is not a setting of a run"),
            ("when: [{if: {seed: 1}, set: {train.foo: 1}}]\n", "x.yaml:3:30: train.foo is not an option of train"),
            ("when: 3\n", "x.yaml:3:7: when is a whole number, where a list is expected"),
            ("include: [3]\n", "x.yaml:3:11: include holds a whole number, where a mapping of settings is expected"),
            ("include: [{sed: 3}]\n", "x.yaml:3:12: sed is not a setting of a run; did you mean seed?"),
        ],
    )
    def test_rules_that_cannot_be(self, text: str, expected: str) -> None:
        assert error(f"grid: {{seed: [0, 1]}}\n{text}").startswith(expected)


class TestInclude:
    def test_an_included_cell_stands_on_base_and_follows_the_rules(self) -> None:
        text = (
            "base: {train.epochs: 3}\ngrid: {seed: [0]}\n"
            "include: [{method: isd, seed: 5}, {backbone: {name: resnet18, width: 8}}]\n"
            "when: [{if: {method: isd}, set: {train.batch_size: 64}}]\n"
            "exclude: [{seed: 0}]\n"
        )
        first, second = cells(text)
        assert (first.config.train.epochs, first.config.train.batch_size, first.config.seed) == (3, 64, 5)
        assert second.config.backbone.width == 8

    def test_without_axes_a_file_lists_its_runs_one_by_one(self) -> None:
        assert titles("include: [{seed: 3}, {seed: 4, method: isd}]\n") == [
            "seed=3 method=moco_v2",
            "seed=4 method=isd",
        ]

    def test_what_only_include_varies_is_an_axis_of_all_cells(self) -> None:
        text = "grid: {seed: [0]}\ninclude: [{method: isd, train: {epochs: 5}}]\n"
        assert titles(text) == ["seed=0 method=moco_v2 train.epochs=200", "seed=0 method=isd train.epochs=5"]

    def test_an_included_option_is_a_label_of_its_component(self) -> None:
        text = "grid: {method: [moco_v2, isd]}\ninclude: [{method: {name: isd, queue_size: 512}}]\n"
        assert titles(text) == ["method=moco_v2", "method=isd", "method=isd queue_size=512"]


class TestLabels:
    def test_a_component_shows_only_what_tells_it_apart(self) -> None:
        axis = "[balanced, {name: long_tailed, imbalance: 100, size: 50}, {name: long_tailed, imbalance: 10, size: 50}]"
        labels = [cell.axes["data.profile"] for cell in cells(f"grid: {{data.profile: {axis}}}\n")]
        assert labels == ["balanced", "long_tailed", "long_tailed imbalance=10"]

    def test_another_value_of_the_same_name_leaves_the_old_label(self) -> None:
        alone = titles("grid: {data.profile: [long_tailed]}\n")
        assert titles("grid: {data.profile: [long_tailed, {name: long_tailed, imbalance: 10}]}\n")[:1] == alone

    def test_an_option_that_the_component_does_not_have(self) -> None:
        text = "base: {backbone: vit_tiny}\ngrid: {method.queue_size: [512]}\ninclude: [{method: sdssl}]\n"
        assert titles(text) == ["method.queue_size=512 method=moco_v2", "method.queue_size=- method=sdssl"]

    def test_options_written_without_a_name_are_shown_beside_the_name_that_stands_there(self) -> None:
        text = "base: {method: isd}\ngrid: {method: [isd, {momentum: 0.9}]}\ninclude: [{method.queue_size: 512}]\n"
        assert titles(text) == ["method=isd", "method=isd momentum=0.9", "method=isd queue_size=512"]

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("method", "isd"),
            ("seed", "0"),
            ("train.learning_rate", "0.03"),
            ("train.weight_decay", "0.0001"),
            ("train.decay_matrices_only", "false"),
            ("train.clip_gradient_norm", "none"),
            ("evaluate.knn.k", "[20, 1, 200]"),
            ("data.profile.imbalance", "100"),
            ("data.profile.match_imbalance", "-"),
        ],
    )
    def test_the_label_of_any_setting(self, path: str, expected: str) -> None:
        config = RunConfig(method=ISD(), data=RunConfig().data.model_copy(update={"profile": LongTailed()}))
        assert label(config, path) == expected


class TestDuplicates:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                "grid: {seed: [0, 1, 0]}\n",
                "x.yaml:2:21: the run seed=0 is in the experiment twice; remove one of the two",
            ),
            ("grid: {train.epochs: [5, 5.0]}\n", "x.yaml:2:26: the run train.epochs=5 is in the experiment twice"),
            ("grid: {seed: [1]}\ninclude: [{seed: 1}]\n", "x.yaml:3:11: the run seed=1 is in the experiment twice"),
            (
                "grid: {evaluate.knn.temperature: [0.1, 0.2]}\n",
                "x.yaml:2:40: evaluate.knn.temperature=0.1 and evaluate.knn.temperature=0.2 are the same run, "
                "because evaluate.knn.temperature changes no number of a run; it cannot be an axis (run id ",
            ),
            (
                "grid: {data.root: [a, b]}\n",
                "x.yaml:2:23: data.root=a and data.root=b are the same run, because data.root",
            ),
            (
                "grid: {data.profile: [balanced, {name: balanced, size: null}]}\n",
                "x.yaml:2:33: the run data.profile=balanced is in the experiment twice",
            ),
        ],
    )
    def test_two_cells_that_are_one_run_are_an_error(self, text: str, expected: str) -> None:
        assert error(text).startswith(expected)

    def test_a_rule_that_makes_two_cells_one_is_an_error(self) -> None:
        text = "grid: {train.epochs: [3, 4]}\nwhen: [{if: {train.epochs: 3}, set: {train.epochs: 4}}]\n"
        assert error(text).startswith("x.yaml:2:26: the run train.epochs=4 is in the experiment twice")


class TestOverrides:
    GRID = (
        "base: {train: {epochs: 10}, method: {name: isd, queue_size: 1024}}\n"
        "grid: {method: [moco_v2, isd], seed: [0, 1]}\n"
        "zip: [{train.batch_size: [128, 256], train.learning_rate: [0.1, 0.2]}]\n"
        "when: [{if: {method: isd}, set: {train.epochs: 20, resources.cpus_per_node: 4}}]\n"
        "exclude: [{method: isd, seed: 1}]\n"
    )

    def test_a_setting_wins_over_base_and_rules_in_every_run(self) -> None:
        assert {cell.config.train.epochs for cell in cells(self.GRID)} == {10, 20}
        assert {cell.config.train.epochs for cell in cells(self.GRID, "train.epochs=5")} == {5}
        assert {cell.config.train.epochs for cell in cells(self.GRID, "base.train.epochs=6", "train.epochs=7")} == {7}
        assert {cell.resources.cpus_per_node for cell in cells(self.GRID, "resources.cpus_per_node=2")} == {2}

    def test_an_axis_is_pinned_to_the_value(self) -> None:
        assert {cell.axes["seed"] for cell in cells(self.GRID, "seed=0")} == {"0"}
        assert len(cells(self.GRID, "seed=0")) == 4
        assert [cell.config.method for cell in cells(self.GRID, "seed=0", "method=isd")] == [ISD(queue_size=1024)] * 2

    def test_a_zipped_axis_is_pinned_and_the_others_still_move(self) -> None:
        runs = cells(self.GRID, "train.batch_size=64", "method=isd", "seed=0")
        assert [(cell.config.train.batch_size, cell.config.train.learning_rate) for cell in runs] == [
            (64, 0.1),
            (64, 0.2),
        ]
        assert len(cells(self.GRID, "train.batch_size=64", "train.learning_rate=1", "method=isd", "seed=0")) == 1

    def test_an_option_of_every_method_of_the_grid(self) -> None:
        runs = cells(self.GRID, "method.queue_size=2048")
        assert {label(cell.config, "method.queue_size") for cell in runs} == {"2048"}
        assert error(self.GRID, "method.ratio=1").startswith(
            "--set method.ratio=1: method.ratio is not an option of method moco_v2, but of sdssl"
        )

    def test_pinning_leaves_the_ids_of_the_runs_that_remain(self) -> None:
        everything = {cell.run_id for cell in cells(self.GRID)}
        pinned = {cell.run_id for cell in cells(self.GRID, "seed=0", "train.learning_rate=0.1")} & everything
        assert len(pinned) == 2

    def test_sections_are_addressed_directly(self) -> None:
        loaded = experiment(self.GRID, "name=other", "grid.seed=[7]", "grid.data.profile=[long_tailed]", "exclude=[]")
        assert loaded.name == "other"
        assert loaded.axes == ("method", "seed", "data.profile", "train.batch_size", "train.learning_rate")
        assert {(cell.config.seed, cell.config.data.profile) for cell in loaded.cells()} == {(7, LongTailed())}

    def test_rules_written_for_the_whole_grid_do_not_stand_in_the_way(self) -> None:
        assert len(cells(self.GRID, "grid.seed=[5, 6]")) == 8
        assert len(cells(self.GRID + "include: [{method: isd, seed: 3}]\n", "train.batch_size=64", "seed=0")) == 5
        assert "matches no cell" in error(self.GRID.replace("seed: 1}]", "seed: 7}]"), "resources.nodes=2")

    def test_shorthand_and_flow_values(self) -> None:
        (cell,) = cells(
            "base: {data.profile: {name: long_tailed, imbalance: 5}}\n", "data.profile={name: balanced, size: 9}"
        )
        assert cell.config.data.profile == Balanced(size=9)
        (cell,) = cells(
            "base: {train.clip_gradient_norm: 1}\n", "train.clip_gradient_norm=null", "train.weight_decay=1e-3"
        )
        assert (cell.config.train.clip_gradient_norm, cell.config.train.weight_decay) == (None, 0.001)

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("train.epochs", "write --set key=value, such as --set train.epochs=5"),
            ("=3", "write --set key=value"),
            ("train..epochs=3", "write --set key=value"),
            ("train.epoch=3", "train.epoch is not an option of train; did you mean epochs?"),
            ("trian.epochs=3", "trian.epochs is not a setting; did you mean train.epochs?"),
            ("backnd=local", "backnd is not a setting; did you mean backend?"),
            ("epochs=3", "epochs is not a setting; did you mean train.epochs?"),
            ("extends=a.yaml", "extends cannot be set; write it into the file"),
            ("base=3", "name the setting, such as --set train.epochs=5"),
            ("train.epochs=[1", "this is not valid YAML"),
            ("train.epochs=${env:NOPE}", "the environment variable NOPE is not set"),
            ("grid.foo=[1]", "the axis foo is not a setting of a run"),
            ("resources.nodes=x", "resources.nodes=x is text, where a whole number is expected"),
        ],
    )
    def test_what_cannot_be_set(self, override: str, expected: str) -> None:
        assert error(self.GRID, override).startswith(f"--set {override}: {expected}")


def test_ten_thousand_cells_take_less_than_two_seconds() -> None:
    rates, seeds = [n / 1000 for n in range(1, 51)], list(range(100))
    text = f"grid: {{method: [moco_v2, isd], train.learning_rate: {rates}, seed: {seeds}}}\n"
    started = time.process_time()
    runs = cells(text)
    assert time.process_time() - started < 2
    assert len({cell.run_id for cell in runs}) == 10_000


class TestPositions:
    TEXT = (
        "base: {data: {root: a}}\n"
        "grid: {data.split_seed: [0, 1]}\n"
        "when: [{if: {data.split_seed: 1}, set: {data.root: b}}]\n"
    )

    def test_a_value_is_found_where_it_was_written(self) -> None:
        loaded = experiment(self.TEXT, "data.root=c")
        places = [str(loaded.position_of("data.root", value)) for value in ("a", "b", "c")]
        assert places == ["x.yaml:2:21", "x.yaml:4:52", "--set data.root=c"]
        assert str(loaded.position_of("data.split_seed", 1)) == "x.yaml:3:29"

    def test_a_default_is_placed_at_what_is_written_around_it(self) -> None:
        assert str(experiment(self.TEXT).position_of("data.profile.size", 5)) == "x.yaml:2:14"
        assert str(experiment("").position_of("data.root", "data")) == "x.yaml:1:1"


REPOSITORY = Path(__file__).parents[3]
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/experiment-file.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_guide_are_experiments(example: str) -> None:
    Path("recipes").symlink_to(REPOSITORY / "experiments/recipes")
    Path("x.yaml").write_text(example)
    assert load_experiment("x.yaml", (), {}).cells()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_experiments_of_the_repository_are_valid(path: Path) -> None:
    assert load_experiment(path, (), {}).cells()
