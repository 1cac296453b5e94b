"""Reading YAML: what words mean, where they stand, and what is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InputError
from orchestrator.experiment.nodes import MapNode, plain
from orchestrator.experiment.source import MAX_BYTES, read_file, read_value

ENVIRONMENT = {"ROOT": "/data/cifar", "EPOCHS": "5", "EMPTY": "", "WORD": "yes"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str | bytes) -> MapNode:
    Path("x.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return read_file("x.yaml", ENVIRONMENT).root


def value(text: str) -> Any:
    return plain(read_value(text, "--set", ENVIRONMENT))


def error(text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(text)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Where YAML 1.1, and PyYAML with it, reads something else.
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("12:00:00", "12:00:00"),
        ("1_000", "1_000"),
        ("0o17", 15),
        ("017", 17),
        ("2024-01-01", "2024-01-01"),
        # Where both agree.
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("-3", -3),
        ("+4", 4),
        ("0x1F", 31),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e+3", -1500.0),
        ("'1'", "1"),
        ('"true"', "true"),
        ("1.2.3", "1.2.3"),
        ("-", [None]),
        ("e5", "e5"),
        ("[1, a, [2.5]]", [1, "a", [2.5]]),
        ("{a: 1, b: {c: x}}", {"a": 1, "b": {"c": "x"}}),
        ("18446744073709551615", 2**64 - 1),
    ],
)
def test_scalars_follow_the_yaml_1_2_core_schema(text: str, expected: Any) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"${env:ROOT}/train"', "/data/cifar/train"),
        ("${env:ROOT}/train", "/data/cifar/train"),
        ('"${env:EPOCHS}"', 5),
        ('"${env:EPOCHS}0"', "50"),
        ('"${env:MISSING:-7}"', 7),
        ('"${env:MISSING:-a b}"', "a b"),
        ('"${env:MISSING:-}"', ""),
        ('"${env:EMPTY:-9}"', 9),
        ('"${env:EMPTY}"', ""),
        ('"${env:WORD}"', "yes"),
        ('"$${env:ROOT}"', "${env:ROOT}"),
        ('"$$ $ {x}"', "$$ $ {x}"),
        ('"${env:ROOT}:${env:EPOCHS}"', "/data/cifar:5"),
    ],
)
def test_references_to_the_environment(text: str, expected: Any) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


def test_every_key_and_value_knows_its_line_and_column() -> None:
    root = read("name: a\nbase:\n  train:\n    epochs: 5\n    milestones: [1,\n      22]\n")
    train = root.entries["base"].node.entries["train"].node  # type: ignore[union-attr]
    assert isinstance(train, MapNode)
    assert str(root.entries["base"].key_at) == "x.yaml:2:1"
    assert str(train.entries["epochs"].key_at) == "x.yaml:4:5"
    assert str(train.entries["epochs"].node.at) == "x.yaml:4:13"
    items = train.entries["milestones"].node.items  # type: ignore[union-attr]
    assert [str(item.at) for item in items] == ["x.yaml:5:18", "x.yaml:6:7"]


def test_columns_count_characters_not_bytes() -> None:
    root = read("name: {é日: x}\n")
    inner = root.entries["name"].node
    assert isinstance(inner, MapNode)
    assert str(inner.entries["é日"].node.at) == "x.yaml:1:12"


def test_keys_are_text_whatever_they_look_like() -> None:
    assert plain(read("1: a\ntrue: b\nnull: c\n")) == {"1": "a", "true": "b", "null": "c"}


def test_anchors_aliases_and_merge_keys() -> None:
    root = read(
        "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\n"
        "one: {<<: *a, x: 9}\nmany: {y: 0, <<: [*a, *b]}\nalias: *a\nquoted: {'<<': 1}\n"
    )
    result = plain(root)
    assert result["one"] == {"x": 9, "y": 2}
    assert result["many"] == {"y": 0, "x": 1, "z": 4}
    assert result["alias"] == {"x": 1, "y": 2}
    assert result["quoted"] == {"<<": 1}


def test_a_merged_value_keeps_the_position_where_it_was_written() -> None:
    root = read("a: &a {x: 1}\nb: {<<: *a}\n")
    merged = root.entries["b"].node
    assert isinstance(merged, MapNode)
    assert str(merged.entries["x"].node.at) == "x.yaml:1:11"


def test_a_byte_order_mark_is_not_part_of_the_text() -> None:
    assert plain(read(b"\xef\xbb\xbfname: a\n")) == {"name": "a"}


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1", "the key a stands twice in one mapping, first at x.yaml:1:1"),
        ("b: {<<: {x: 1}, <<: {x: 2}}\n", "x.yaml:1:17", "the key << stands twice"),
        ("b: {<<: 3}\n", "x.yaml:1:5", "<< merges mappings"),
        ("a: !!python/object/apply:os.system [ls]\n", "x.yaml:1:4", "the tag !!python/object/apply:os.system"),
        ("a: !!str 5\n", "x.yaml:1:4", "the tag !!str is not allowed"),
        ("a: !mine {b: 1}\n", "x.yaml:1:4", "the tag !mine is not allowed"),
        ("a: .nan\n", "x.yaml:1:4", ".nan is not a finite number"),
        ("a: [-.INF]\n", "x.yaml:1:5", "-.INF is not a finite number"),
        ("a: 1e999\n", "x.yaml:1:4", "1e999 is too large"),
        ("a: 18446744073709551616\n", "x.yaml:1:4", "does not fit into 64 bits"),
        ("a: " + "9" * 5000 + "\n", "x.yaml:1:4", "a number of 5000 digits is too long"),
        ("a: *b\n", "x.yaml:1:4", "the alias *b has no anchor"),
        ("a: &a {b: *a}\n", "x.yaml:1:11", "the alias *a stands inside its own anchor"),
        ("a: &x 1\n*x : 2\n", "x.yaml:2:1", "a key must be a word; the alias *x"),
        ("? [a]\n: b\n", "x.yaml:1:3", "a key must be a word"),
        ("a: " + "[" * 5000, "x.yaml:1:43", "nested more than 40 deep"),
        ("{a: " * 5000, "x.yaml:1:161", "nested more than 40 deep"),
        ("a: {b: 1\n", "x.yaml:2:1", "not valid YAML"),
        ("a:\n\tb: 1\n", "x.yaml:2:1", "indent with spaces"),
        ("a: 'x\n", "x.yaml:2:1", "not valid YAML"),
        ("a: é\x01\n", "x.yaml:1:5", "the control character #x01"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1", "a second document starts here"),
        ("", "x.yaml:1:1", "the file is empty"),
        ("# only a comment\n", "x.yaml:1:1", "the file is empty"),
        ("- a\n", "x.yaml:1:1", "must hold a mapping"),
        ("hello\n", "x.yaml:1:1", "must hold a mapping"),
        (b"a: 1\nb: \xff\xfe\n", "x.yaml:2:4", "not UTF-8"),
        ("name: a\n".encode("utf-16"), "x.yaml:1:1", "not UTF-8"),
        ('a: "${env:MISSING}"\n', "x.yaml:1:4", "the environment variable MISSING is not set"),
        ('a: "${HOME}"\n', "x.yaml:1:4", "${HOME} is no reference; write ${env:NAME}"),
        ('a: "${env:ROOT"\n', "x.yaml:1:4", "${env:ROOT is no reference"),
    ],
)
def test_what_is_refused_is_named_with_its_place(text: str | bytes, where: str, what: str) -> None:
    message = error(text)
    assert message.startswith(f"{where}: ")
    assert what in message


def test_aliases_that_expand_without_bound_are_refused_at_once() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.process_time()
    message = error("\n".join(lines))
    assert "expand to more than 1,000,000 values" in message
    assert message.startswith("x.yaml:6:")
    assert time.process_time() - started < 1


def test_many_aliases_of_a_small_mapping_are_fine() -> None:
    text = "base: &base {a: 1, b: 2}\nitems:\n" + "  - *base\n" * 5000
    assert len(plain(read(text))["items"]) == 5000


def test_an_alias_is_the_same_node_not_a_copy() -> None:
    root = read("a: &a [1, 2, 3]\nb: *a\nc: [*a]\n")
    (item,) = root.entries["c"].node.items  # type: ignore[union-attr]
    assert root.entries["a"].node is root.entries["b"].node is item


class TestFiles:
    def test_missing_file_names_the_nearest(self) -> None:
        Path("quickstart.yaml").write_text("name: a\n")
        with pytest.raises(
            InputError, match=r"^quikstart\.yaml: there is no such file; did you mean quickstart\.yaml\?$"
        ):
            read_file("quikstart.yaml", {})

    def test_missing_folder(self) -> None:
        with pytest.raises(InputError, match=r"^nowhere/a\.yaml: there is no such file$"):
            read_file("nowhere/a.yaml", {})

    def test_folder_instead_of_file(self) -> None:
        Path("folder.yaml").mkdir()
        with pytest.raises(InputError, match=r"^folder\.yaml: this is a folder"):
            read_file("folder.yaml", {})

    def test_larger_than_any_experiment(self) -> None:
        with open("x.yaml", "wb") as file:
            file.truncate(MAX_BYTES + 1)
        with pytest.raises(InputError, match="larger than 8 MiB"):
            read_file("x.yaml", {})

    def test_a_name_that_no_file_can_have(self) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            read_file("a\0b.yaml", {})
