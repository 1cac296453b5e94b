"""The parts of collection that need no store: addresses, pieces of a metrics file, what is sent and what is not."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.collect import Cursor, check_store, store_uri
from orchestrator.collect.artifacts import tail
from orchestrator.collect.payload import Point, final_points, missing_points, news, params, parent_status
from orchestrator.collect.spool import last_points, pieces, tail_fingerprint
from orchestrator.collect.store import driven, without_login
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.redaction import redacted
from orchestrator.runs import RunView
from orchestrator.state import RunState
from trainers.config import ISD, Data, RunConfig
from trainers.rundir import Metric, Result, RunDir

# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, "sqlite:////work space/mlflow.db"),
        ("sqlite:///mine.db", "sqlite:////work space/mine.db"),
        ("sqlite:////data/mine.db", "sqlite:////data/mine.db"),
        ("http://host:5000/", "http://host:5000"),
        ("postgresql+psycopg2://user:secret@host/db", "postgresql+psycopg2://user:secret@host/db"),
    ],
)
def test_addresses_are_completed(uri: str | None, expected: str) -> None:
    assert store_uri(uri, Path("/work space")) == expected


@pytest.mark.parametrize(
    "uri", ["mlruns", "file:///data/mlruns", "sqlite://", "sqlite:///:memory:", "http://", "ftp://x"]
)
def test_what_cannot_be_a_store_is_refused_with_its_value(uri: str) -> None:
    with pytest.raises(InputError, match=r"tracking\.uri=") as refused:
        store_uri(uri, Path("/w"))
    assert uri in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("uri", ["postgresql://user:sec/ret@host/db", "http://user:sec#ret@host", "http://host:port"])
def test_an_address_that_cannot_be_read_is_refused_without_being_quoted(uri: str) -> None:
    with pytest.raises(InputError, match=r"tracking\.uri cannot be read .* %2F") as refused:
        store_uri(uri, Path("/w"))
    assert "sec" not in str(refused.value)


def test_messages_hide_passwords() -> None:
    assert redacted("postgresql://user:secret@host/db") == "postgresql://user:***@host/db"
    assert redacted("postgresql://host/db?password=secret&user=me") == "postgresql://host/db?password=***&user=me"
    assert redacted("from http://a:b@c/d?e=f@g to x://h:i@j@k, http://l:80/m@n") == (
        "from http://a:***@c/d?e=f@g to x://h:***@k, http://l:80/m@n"
    )
    assert without_login("postgresql://user:secret@host/db?password=secret") == "postgresql://host/db?password=***"
    with pytest.raises(InputError) as refused:
        store_uri("postgres://user:secret@host/db", Path("/w"))
    assert "secret" not in str(refused.value)


def test_an_address_without_a_driver_gets_one_that_is_installed() -> None:
    assert driven("postgresql://host/db") == "postgresql+psycopg2://host/db"
    for uri in ("postgresql+psycopg://host/db", "sqlite:////data/mlflow.db", "http://host:5000"):
        assert driven(uri) == uri


@pytest.mark.parametrize("uri", ["postgresql://user:secret@host/db", "postgresql+psycopg2://user:secret@host/db"])
def test_a_driver_that_is_missing_is_named_with_what_to_install(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("psycopg2", "psycopg"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(EnvironmentProblem, match=r"\*\*\*@host/db needs a driver \(psycopg2.*ssl-sweep\[postgresql\]"):
        check_store(uri)


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers every request with the server's ``status``."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    answering = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=answering.serve_forever, args=[0.01])
    thread.start()
    yield answering
    answering.shutdown()
    thread.join()
    answering.server_close()


@pytest.mark.parametrize(("status", "is_usable"), [(200, True), (401, True), (404, True), (503, False)])
def test_a_server_is_there_when_it_answers(server: http.server.HTTPServer, status: int, is_usable: bool) -> None:
    server.status = status  # type: ignore[attr-defined]
    uri = f"http://127.0.0.1:{server.server_port}"
    if is_usable:
        check_store(uri)
    else:
        with pytest.raises(EnvironmentProblem, match="HTTP status 503"):
            check_store(uri)


def test_a_database_that_does_not_listen_is_named_without_its_password() -> None:
    with pytest.raises(EnvironmentProblem, match=r"user:\*\*\*@127.0.0.1:1/db does not answer"):
        check_store("postgresql://user:secret@127.0.0.1:1/db")


def test_a_store_must_be_a_database_in_a_folder_that_can_be_made(tmp_path: Path) -> None:
    check_store(f"sqlite:///{tmp_path}/new/mlflow.db")
    (tmp_path / "notes.txt").write_text("no database, but a text of some length")
    with pytest.raises(EnvironmentProblem, match=r"notes\.txt is not an SQLite database"):
        check_store(f"sqlite:///{tmp_path}/notes.txt")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        check_store(f"sqlite:///{tmp_path}/notes.txt/mlflow.db")


# --- the metrics file as a spool --------------------------------------------------------------------------------------


@given(lines=st.lists(st.text("ab", max_size=30), max_size=30), size=st.integers(1, 100), torn=st.booleans())
def test_pieces_cover_every_whole_line_once(
    lines: list[str], size: int, torn: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("spool") / "metrics.jsonl"
    whole = "".join(f"{line}\n" for line in lines)
    path.write_text(whole + ("torn" if torn else ""))
    cut = list(pieces(path, 0, path.stat().st_size, size))
    data = path.read_bytes()
    assert b"".join(data[begin:end] for begin, end in cut).decode() == whole
    assert all(data[end - 1 : end] == b"\n" for _, end in cut)
    assert [begin for begin, _ in cut[1:]] == [end for _, end in cut[:-1]]


def write_metrics(run_dir: RunDir, num_lines: int) -> int:
    run_dir.path.mkdir(exist_ok=True)
    with open(run_dir.metrics_path, "w") as file:
        for step in range(num_lines):
            metrics = {"loss": float(step)} | ({"rare": 1.0} if step == 3 else {})
            file.write(json.dumps(Metric(step=step, epoch=0, time=step + 0.5, metrics=metrics).to_json()) + "\n")
    return run_dir.metrics_path.stat().st_size


def test_the_last_points_are_found_however_far_back(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    size = write_metrics(run_dir, 3000)
    found = last_points(run_dir, size, ["loss", "rare", "never"])
    assert found == {"loss": Point("loss", 2999.0, 2999500, 2999), "rare": Point("rare", 1.0, 3500, 3)}
    assert last_points(run_dir, 0, ["loss"]) == {}


def test_a_tail_tells_a_rewritten_file_from_a_longer_one(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    offset = write_metrics(run_dir, 10)
    before = tail_fingerprint(run_dir.metrics_path, offset)
    write_metrics(run_dir, 12)
    assert tail_fingerprint(run_dir.metrics_path, offset) == before
    text = run_dir.metrics_path.read_text()
    run_dir.metrics_path.write_text(text.replace("9.5", "8.7"))  # step 9, measured at another time
    assert tail_fingerprint(run_dir.metrics_path, offset) != before


def test_a_long_log_keeps_its_end_from_a_whole_line_on(tmp_path: Path) -> None:
    log = tmp_path / "rank_0.log"
    log.write_text("".join(f"line {number}\n" for number in range(1000)))
    kept = tail(log, 100).decode().splitlines()
    assert kept[0].startswith("[the first ")
    assert kept[1:] == [f"line {number}" for number in range(1000 - len(kept) + 1, 1000)]
    assert tail(log, 10**6) == log.read_bytes()


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_step_measured_again_is_not_sent_again() -> None:
    stored = [Point("loss", 1.0, 100, 1), Point("loss", 2.0, 200, 2)]
    # Step 1 stands as it was; step 2 was cut back and measured again later; step 3 is new.
    file = [Point("loss", 1.0, 100, 1), Point("loss", 2.0, 999, 2), Point("loss", 3.0, 1000, 3)]
    assert missing_points(file, stored) == [Point("loss", 3.0, 1000, 3)]


def test_two_values_at_one_step_are_two_points() -> None:
    file = [Point("top1", 50.0, 100, 1), Point("top1", 50.0, 105, 1)]
    assert missing_points(file, file[:1]) == file[1:]


def test_a_final_value_that_was_measured_is_that_point() -> None:
    result = Result(
        run_id="r", steps=10, epochs=1, metrics={"loss": 2.0, "top1": 71.0}, untrained={"top1": 20.0}, finished=9
    )
    last = {"loss": Point("loss", 2.0, 500, 10), "top1": Point("top1", 60.0, 400, 8)}
    assert final_points(result, last) == [
        Point("loss", 2.0, 500, 10),
        Point("top1", 71.0, 9000, 10),
        Point("untrained/top1", 20.0, 9000, 0),
    ]


def test_what_an_earlier_result_brought_is_no_news() -> None:
    final = [Point("top1", 71.0, 9000, 10), Point("linear", 80.0, 9000, 10), Point("loss", 2.0, 500, 10)]
    stored = [Point("top1", 71.0, 5000, 10), Point("loss", 2.0, 500, 10)]
    assert news(final, stored) == final[1:]


def test_params_are_the_identity_and_the_axes() -> None:
    config = RunConfig(method=ISD(), data=Data(root="/somewhere"), seed=3)
    named = params(config.model_dump(mode="json"), {"method": "isd", "data.profile": "balanced"})
    assert list(named)[:2] == ["method", "data.profile"]
    assert (named["method"], named["method.name"], named["seed"]) == ("isd", "isd", "3")
    assert (named["method.projector"], named["train.optimizer.momentum"]) == ("false", "0.9")
    assert not {"data.root", "data.image_size", "runtime.workers", "evaluate.batch_size"} & set(named)


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ([RunState.COMPLETED, RunState.RUNNING], "RUNNING"),
        ([RunState.COMPLETED, RunState.PLANNED], "SCHEDULED"),
        ([RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED], "FAILED"),
        ([RunState.COMPLETED, RunState.CANCELLED], "KILLED"),
        ([RunState.COMPLETED], "FINISHED"),
    ],
)
def test_an_experiment_is_as_its_least_finished_run(states: list[RunState], status: str) -> None:
    assert parent_status({state: states.count(state) for state in RunState}) == status


def test_a_run_is_named_by_its_labels() -> None:
    axes = {"method": "isd", "train.learning_rate": "0.06", "seed": "0"}
    run = RunView("id", 0, axes, RunState.PLANNED, "", "", "", 0, RunDir(Path("r")))
    assert run.name == "isd · learning_rate=0.06 · seed=0"


def test_a_cursor_of_another_version_is_forgotten() -> None:
    cursor = Cursor("m", "p", metrics_offset=3, artifacts={"a": "1:2"})
    assert Cursor.from_text(cursor.to_text()) == cursor
    assert Cursor.from_text('{"mlflow_run_id": "m", "unheard_of": 1}') is None
    assert Cursor.from_text("{") is None
