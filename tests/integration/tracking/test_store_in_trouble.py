"""Tracking servers that refuse, stall, vanish or lose their answers, and a database that somebody else holds."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
import threading
from collections import Counter
from typing import Any

import pytest

from orchestrator.collect.children import Children
from orchestrator.collect.mlflow_store import open_experiment
from orchestrator.collect.store import connect
from orchestrator.errors import EnvironmentProblem
from tests.integration.tracking.fabricated import Fabricated, contents, uri_of
from tests.integration.tracking.troublesome import Fate, Request, at_random, proxy


@pytest.fixture
def named(fabricated: Fabricated, request: pytest.FixtureRequest) -> Fabricated:
    """An experiment with the test's name: tests share one server."""
    fabricated.name = request.node.name
    return fabricated


@pytest.fixture
def expected(named: Fabricated) -> dict[str, Any]:
    """What a store holds of it when nothing goes wrong."""
    named.collect()
    return contents(uri_of(named), named.name)


def test_a_server_that_fails_at_random_holds_everything_once_in_the_end(
    named: Fabricated, expected: dict[str, Any], tracking_server: str
) -> None:
    trouble, is_calm = at_random(share=0.15, seed=1), threading.Event()
    with proxy(tracking_server, lambda asked: Fate.PASSED if is_calm.is_set() else trouble(asked)) as uri:
        for _ in range(30):
            with contextlib.suppress(EnvironmentProblem):
                if not named.collect(uri, patience_s=10).problems:
                    break
        else:
            pytest.fail("thirty collections were not enough")
        # Through the proxy too: MLflow remembers by which address it reached the files of a run.
        is_calm.set()
        assert contents(uri, named.name) == expected


def test_what_was_created_is_found_if_the_answer_is_lost(
    named: Fabricated, expected: dict[str, Any], tracking_server: str
) -> None:
    """Each kind of request is carried out once without an answer."""
    seen: Counter[str] = Counter()
    lock, is_calm = threading.Lock(), threading.Event()

    def lose_first(asked: Request) -> Fate:
        kind = f"{asked.method} {asked.path.partition('?')[0].partition('mlflow-artifacts')[0]}"
        with lock:
            seen[kind] += 1
            return Fate.ANSWER_LOST if seen[kind] == 1 and not is_calm.is_set() else Fate.PASSED

    notices: list[str] = []
    with proxy(tracking_server, lose_first) as uri:
        for _ in range(3):  # the creation of the experiment ends the first
            try:
                assert named.collect(uri, notice=notices.append).problems == ()
                break
            except EnvironmentProblem:
                pass
        assert seen["POST /api/2.0/mlflow/runs/create"] >= 3
        is_calm.set()
        assert contents(uri, named.name) == expected
    assert len([notice for notice in notices if "in trouble" in notice]) <= 3


def test_a_server_gone_in_the_middle_is_waited_for_named_once_and_gone_on_with(
    named: Fabricated, expected: dict[str, Any], tracking_server: str
) -> None:
    served: list[Request] = []
    is_mended = threading.Event()

    def until_twelfth(asked: Request) -> Fate:
        served.append(asked)
        return Fate.PASSED if len(served) <= 12 or is_mended.is_set() else Fate.UNAVAILABLE

    notices: list[str] = []
    with proxy(tracking_server, until_twelfth) as uri:
        with pytest.raises(EnvironmentProblem, match="HTTP status 503; nothing is lost") as caught:
            named.collect(uri, patience_s=2, notice=notices.append)
        assert "\n" not in str(caught.value)
        assert len(served) > 14  # it was asked again
        assert notices == ["the tracking store is in trouble (it answers with HTTP status 503); trying again"]
        is_mended.set()
        named.collect(uri)
        assert contents(uri, named.name) == expected


@pytest.mark.parametrize("where", ["environment", "address"])
def test_a_login_is_given_and_a_wrong_one_is_one_sentence(
    where: str,
    named: Fabricated,
    tracking_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proxy checks the header, as a server with accounts does."""
    right = "Basic " + base64.b64encode(b"ada:secret").decode()
    with proxy(tracking_server, lambda asked: Fate.PASSED if asked.login == right else Fate.REFUSED_LOGIN) as uri:

        def with_login(password: str) -> str:
            if where == "address":
                return uri.replace("//", f"//ada:{password}@")
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
            return uri

        with pytest.raises(EnvironmentProblem, match=r"refuses the login; set MLFLOW_TRACKING_USERNAME") as caught:
            named.collect(with_login("wrong"))
        assert "wrong" not in str(caught.value)
        summary = named.collect(with_login("secret"))
    assert (summary.changed, summary.problems) == (2, ())
    assert "secret" not in summary.uri + named.cursors.path.read_text()


def test_a_token_is_given(named: Fabricated, tracking_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    right = "Bearer t0ken"
    with proxy(tracking_server, lambda asked: Fate.PASSED if asked.login == right else Fate.REFUSED_LOGIN) as uri:
        assert named.collect(uri).problems == ()


def test_a_database_that_is_locked_for_seconds_is_waited_for(fabricated: Fabricated) -> None:
    path = fabricated.workspace.path / "mlflow.db"
    fabricated.collect()
    expected = contents(uri_of(fabricated))
    fabricated.cursors.path.unlink()
    holder = sqlite3.connect(path, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(3, holder.rollback)
    release.start()
    assert fabricated.collect().problems == ()
    release.join()
    holder.close()
    assert contents(uri_of(fabricated)) == expected


def test_of_twins_that_two_machines_created_one_stays(fabricated: Fabricated) -> None:
    uri, run_id = uri_of(fabricated), "abcabcabcabc"
    parent_id = fabricated.collect().parent_run_id
    sides = [Children(open_experiment(connect(uri), "digits-lt", None), parent_id) for _ in range(2)]
    for side in sides:
        assert side.find(run_id) is None
    created = [side.create(run_id, "a run", 1_700_000_000_000, {}).info.run_id for side in sides]
    is_first_stays = created[0] == min(created)
    # What the second has sent to its run, it brings again if that is the one that went.
    assert [side.settle() for side in sides] == [{run_id}, {run_id} if is_first_stays else set()]
    stayed = [side.find(run_id) for side in sides]
    assert [run and run.info.run_id for run in stayed] == [min(created)] * 2
