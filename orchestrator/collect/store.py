"""The tracking store: which one an experiment means, whether it answers, and one quiet MLflow client for it.

Nothing here imports MLflow before :func:`connect`: its import alone takes seconds.
"""

from __future__ import annotations

import fcntl
import gc
import importlib.util
import logging
import os
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.collect.retrying import Patience, explained, is_forbidden, is_full, is_refused_login, patient
from orchestrator.errors import EnvironmentProblem, InputError
from orchestrator.redaction import redacted
from orchestrator.workspace import Workspace

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

#: Database servers, and for each the modules that speak to it. The first that is installed is taken: the one that
#: SQLAlchemy takes for an address that names none differs between its versions, and need not be there.
_DRIVERS = {"postgresql": ("psycopg2", "psycopg"), "mysql": ("pymysql", "MySQLdb"), "mssql": ("pymssql", "pyodbc")}
#: SQL stores keep an equal point once, and so does a tracking server in front of one. MLflow's file store does not.
_DATABASES = ("sqlite", *_DRIVERS)
_PROBE_TIMEOUT_S = 5
#: What drivers call the seconds that they wait for a connection.
_TIMEOUT_OPTIONS = {"postgresql": "connect_timeout", "mysql": "connect_timeout"}
#: With this begin the words of a PostgreSQL server that was reached and refuses.
_REFUSAL = "FATAL: "

#: Whatever the user chose for other programs: repeating is ``retrying``'s, and both together would take minutes.
_FIXED_ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
#: For this process and its children, unless the user chose otherwise. MLflow's own defaults wait two minutes for a
#: server that is stuck, and send usage statistics to a host on the internet.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def store_uri(uri: str | None, workspace: Path) -> str:
    """The tracking URI in full: a relative sqlite path is below the workspace, and so is the default store.

    Raises:
        InputError: MLflow cannot be reached that way, or keeps points twice there.
    """
    if uri is None:
        return f"sqlite:///{workspace / 'mlflow.db'}"
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        # Not quoted: what was not understood may be a part of the password.
        raise InputError(
            "tracking.uri cannot be read as scheme://user:password@host:port/name; the port is a number, and of a "
            "password / : @ # ? % are written %2F %3A %40 %23 %3F %25"
        ) from error
    scheme = parts.scheme
    if scheme in ("http", "https"):
        if not parts.hostname:
            raise InputError(f"tracking.uri={uri} names no host; write it like http://tracking.example.org:5000")
        return uri.rstrip("/")
    dialect = _dialect(uri)
    if dialect not in _DATABASES:
        raise InputError(
            f"tracking.uri={redacted(uri)} is not a store that keeps every metric point once; "
            "use sqlite:///<file>, postgresql://..., mysql://... or http(s)://<tracking server>"
        )
    if dialect != "sqlite":
        return uri
    path = _sqlite_path(uri)
    if path is None:
        raise InputError(f"tracking.uri={uri} names no file; write it like sqlite:///mlflow.db")
    return f"{scheme}:///{workspace / path}"


def artifact_root(uri: str, workspace: Path) -> str | None:
    """Where artifacts of new MLflow experiments go: the workspace for databases, the server's choice otherwise."""
    return None if uri.startswith("http") else str(workspace / "mlartifacts")


def driven(uri: str) -> str:
    """A full URI as SQLAlchemy is to have it: of a database server with a driver that is installed, if it names none.

    Raises:
        EnvironmentProblem: no driver is installed.
    """
    scheme, _, rest = uri.partition("://")
    if scheme not in _DRIVERS:
        return uri
    for module in _DRIVERS[scheme]:
        if importlib.util.find_spec(module) is not None:
            return f"{scheme}+{module.lower()}://{rest}"
    raise _no_driver(uri)


def check_store(uri: str) -> None:
    """Prove in a few seconds, without importing MLflow, that the store of a full URI can be used.

    Raises:
        EnvironmentProblem: it does not answer, it refuses the login, its driver is not installed, or its folder cannot
            be written.
    """
    dialect = _dialect(uri)
    if dialect in ("http", "https"):
        _check_server(uri)
    elif dialect == "sqlite":
        _check_file(_sqlite_path(uri) or Path())
    else:
        _check_database(uri)


def connect(uri: str, patience: Patience | None = None) -> MlflowClient:
    """A client for the store of a full URI. The first in a process takes seconds: MLflow is imported for it.

    Args:
        patience: with which all requests of the client are made; None makes each of them once.

    Raises:
        EnvironmentProblem: the store does not answer, refuses the login, or is of another MLflow version.
    """
    check_store(uri)
    is_first = "mlflow.tracking" not in sys.modules
    os.environ.update(_FIXED_ENVIRONMENT)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Each creation of a database is announced line by line, and each refused statement with its traceback; what
        # matters of it reaches the user as one of our errors.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            path = _sqlite_path(uri) if uri.startswith("sqlite") else None
            if path is not None and not (path.exists() and path.stat().st_size):
                _create_database(path)
            client = patient(MlflowClient(tracking_uri=driven(uri)), patience)
            client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError) as error:
            raise _unusable(uri, error) from error
    if is_first:
        # What these imports made stays for good. The garbage collector would go through it every few runs: a fifth of
        # the time of a large collection.
        gc.freeze()
    return client


def _unusable(uri: str, error: Exception) -> EnvironmentProblem:
    name, said = redacted(uri), redacted(explained(error))
    if is_refused_login(error):
        return refused_login(uri, error)
    if not uri.startswith("sqlite") or is_full(error):
        return EnvironmentProblem(f"tracking store {name} cannot be used: {said}")
    return EnvironmentProblem(
        f"tracking store {name} cannot be used: {said}; if it was never complete, "
        "move it away: collecting again brings everything"
    )


def refused_login(uri: str, error: Exception) -> EnvironmentProblem:
    """What to say of a server that wants another name or password, or lets this one do less than was asked."""
    if is_forbidden(error):
        return EnvironmentProblem(
            f"tracking server {redacted(uri)} knows the login and does not let it do this; give it the permission EDIT "
            "on the MLflow experiment and its registered models, or set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to one that has it"
        )
    return EnvironmentProblem(
        f"tracking server {redacted(uri)} refuses the login; set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to one that may write there"
    )


def _create_database(path: Path) -> None:
    """Make the tables of a new SQLite store beside it, and give it its name when it is complete.

    MLflow makes them by dozens of migrations, and refuses for ever a file that was left among them by a kill.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-", ignore_cleanup_errors=True) as folder:
        fresh = Path(folder) / path.name
        store = SqlAlchemyStore(f"sqlite:///{fresh}", str(path.parent / "mlartifacts"))  # type: ignore[no-untyped-call]
        store.engine.dispose()
        os.replace(fresh, path)


def without_login(uri: str) -> str:
    """The URI without name and password: the same store, whoever speaks to it."""
    parts = urlsplit(uri)
    uri = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri
    return redacted(uri)


def lock_path(uri: str, workspace: Workspace) -> Path:
    """The lock of whoever collects into the store: beside an SQLite file, which workspaces may share, and else ours."""
    path = _sqlite_path(uri) if uri.startswith("sqlite") else None
    return workspace.collect_lock_path if path is None else path.with_name(f"{path.name}.lock")


@contextmanager
def held(lock_path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for as long as another process holds it. The kernel frees it at death.

    MLflow gives no way to create a run under a name of our own, so that "look for it, then create it" needs a single
    writer.

    Raises:
        EnvironmentProblem: the file cannot be made, or its file system knows no locks.
    """
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock_path, "a")  # noqa: SIM115 - closed below, where the lock ends
    except OSError as error:
        raise EnvironmentProblem(f"{lock_path} cannot be opened: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise EnvironmentProblem(
                f"{lock_path} cannot be locked ({error.strerror or error}); "
                "put the workspace on a file system with locks"
            ) from error
        yield


def _sqlite_path(uri: str) -> Path | None:
    """The file behind ``sqlite:///relative`` or ``sqlite:////absolute``; None where there is none."""
    _, separator, path = uri.partition(":///")
    name = path.partition("?")[0]
    return Path(name) if separator and name and name != ":memory:" else None


def _check_server(uri: str) -> None:
    try:
        # Without a login, which this library would take for part of the host's name; a refusal is an answer too.
        with urllib.request.urlopen(f"{without_login(uri)}/health", timeout=_PROBE_TIMEOUT_S):  # noqa: S310 - http(s)
            return
    except urllib.error.HTTPError as error:
        # A server behind a login or a proxy may refuse /health and still be there; one in trouble says 5xx.
        if error.code < 500:
            return
        reason = f"HTTP status {error.code}"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise EnvironmentProblem(
        f"tracking server {redacted(uri)} does not answer ({reason}); start it or correct tracking.uri. "
        "What the runs measured is kept in their folders until it answers"
    )


def _check_database(uri: str) -> None:
    """MLflow itself would try for two minutes to reach one that does not answer or refuses the password."""
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, DBAPIError

    option = _TIMEOUT_OPTIONS.get(_dialect(uri))
    options = {option: _PROBE_TIMEOUT_S} if option else {}
    try:
        sa.create_engine(driven(uri), poolclass=sa.NullPool, connect_args=options).connect().close()
    except (ImportError, ArgumentError) as error:
        raise _no_driver(uri) from error
    except DBAPIError as error:
        _, is_refusal, said = str(error.orig).rpartition(_REFUSAL)
        reason = said.strip().partition("\n")[0]
        if is_refusal:
            raise EnvironmentProblem(
                f"tracking database {redacted(uri)} refuses ({reason}); correct tracking.uri or the database"
            ) from error
        raise EnvironmentProblem(
            f"tracking database {redacted(uri)} does not answer ({reason}); start it or correct tracking.uri. "
            "What the runs measured is kept in their folders until it answers"
        ) from error


def _no_driver(uri: str) -> EnvironmentProblem:
    scheme = urlsplit(uri).scheme
    dialect, _, named = scheme.partition("+")
    advice = "psycopg2-binary, or this program as ssl-sweep[postgresql]" if dialect == "postgresql" else "one"
    drivers = named or " or ".join(_DRIVERS[dialect])
    return EnvironmentProblem(f"tracking database {redacted(uri)} needs a driver ({drivers}); install {advice}")


def _dialect(uri: str) -> str:
    return urlsplit(uri).scheme.partition("+")[0]


def _check_file(path: Path) -> None:
    """SQLite needs to write beside the file too, for its journal."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            with open(path, "r+b") as file:
                header = file.read(16)
            if header and not header.startswith(b"SQLite format 3"):
                raise EnvironmentProblem(f"tracking store {path} is not an SQLite database; name another file")
    except OSError as error:
        raise EnvironmentProblem(
            f"tracking store {path} cannot be written ({error.strerror or error}); "
            "mend its permissions or set tracking.uri to another file"
        ) from error
