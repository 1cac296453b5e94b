"""MLflow's own server with logins: one that may write, a wrong one, and one that may only read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import requests

from orchestrator.errors import EnvironmentProblem
from orchestrator.ui import serve
from tests.integration.tracking.fabricated import Fabricated, append_metrics, contents, uri_of, write_end
from tests.integration.tracking.servers import served

ADMIN = ("admin", "administrator-1")
#: The server checks a password for a tenth of a second of a core, with every request, unless it remembers.
SETTINGS = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/logins.db
admin_username = {admin[0]}
admin_password = {admin[1]}
auth_cache_ttl_seconds = 600
"""
PASSWORDS = {"ada": "writes-it-all", "bob": "only-looks-on"}

WithLogin = Callable[..., str]


@pytest.fixture(scope="module")
def with_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithLogin]:
    """The server's address with a user's login, or with another password. It has the users ``ada`` and ``bob``."""
    folder = tmp_path_factory.mktemp("logins")
    (folder / "settings.ini").write_text(SETTINGS.format(folder=folder, admin=ADMIN))
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "settings.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key"}
    with served(folder, "--app-name=basic-auth", environment=environment) as uri:
        for name, password in PASSWORDS.items():
            answer = requests.post(
                f"{uri}/api/2.0/mlflow/users/create",
                json={"username": name, "password": password},
                auth=ADMIN,
                timeout=60,
            )
            answer.raise_for_status()
        yield lambda name, password=None: uri.replace("//", f"//{name}:{password or PASSWORDS[name]}@")


@pytest.fixture
def named(fabricated: Fabricated, request: pytest.FixtureRequest) -> Fabricated:
    """Runs whose encoders are registered."""
    fabricated.name = request.node.name
    fabricated.runs = [replace(run, tracking=replace(run.tracking, register_models=True)) for run in fabricated.runs]
    return fabricated


def test_a_login_brings_everything_and_stays_out_of_links(
    named: Fabricated, with_login: WithLogin, capsys: pytest.CaptureFixture[str]
) -> None:
    named.collect()
    expected = contents(uri_of(named), named.name)
    uri = with_login("ada")
    assert named.collect(uri).problems == ()
    assert contents(uri, named.name) == expected
    assert expected[named.runs[0].run_id]["versions"]
    serve(uri, named.workspace, named.experiment, None)
    links = capsys.readouterr().out
    assert f"runs     http://{uri.rpartition('@')[2]}/#/experiments/" in links
    assert PASSWORDS["ada"] not in links + named.cursors.path.read_text()


@pytest.mark.parametrize(("name", "password"), [("ada", "guessed"), ("eve", "guessed")])
def test_a_wrong_login_is_one_sentence_at_once(
    named: Fabricated, with_login: WithLogin, name: str, password: str
) -> None:
    notices: list[str] = []
    begin = time.monotonic()
    with pytest.raises(EnvironmentProblem, match="refuses the login; set MLFLOW_TRACKING_USERNAME and") as caught:
        named.collect(with_login(name, password), notice=notices.append)
    assert time.monotonic() - begin < 10
    assert notices == []
    assert "\n" not in str(caught.value) and "guessed" not in str(caught.value)


def test_a_login_that_may_only_read_is_told_so_at_once(named: Fabricated, with_login: WithLogin) -> None:
    named.collect(with_login("ada"))
    before = contents(with_login("ada"), named.name)
    run = named.runs[0]
    append_metrics(run.run_dir, range(10, 12))
    write_end(run.run_dir, run.run_id, 12)
    notices: list[str] = []
    begin = time.monotonic()
    with pytest.raises(
        EnvironmentProblem, match=r"knows the login and does not let it do this; give it .* EDIT"
    ) as caught:
        named.collect(with_login("bob"), notice=notices.append)
    assert time.monotonic() - begin < 10
    assert notices == []
    assert "\n" not in str(caught.value) and PASSWORDS["bob"] not in str(caught.value)
    assert contents(with_login("bob"), named.name) == before
    assert named.collect(with_login("ada")).changed == 1  # so there was something to write
