"""Patience with a store in trouble: what is tried again, for how long, and what is said about it.

MLflow's own repetitions over HTTP are switched off (see ``store.py``): they would multiply with these, and they also
repeat what creates something, so that an answer that was lost would leave a run twice.
"""

from __future__ import annotations

import errno
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_Answer = TypeVar("_Answer")

#: Error codes with which MLflow says that the store is in trouble, and not what it was asked.
_TROUBLE = frozenset(
    {
        "INTERNAL_ERROR",
        "TEMPORARILY_UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
    }
)
_REFUSES_LOGIN = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"})
_FORBIDDEN_STATUS = 403
_REFUSES_LOGIN_STATUS = frozenset({401, _FORBIDDEN_STATUS, 407})
_TROUBLE_STATUS = frozenset({408, 425, 429})
#: What databases say when somebody else has added the same row since it was looked for. MLflow passes it on as a fault
#: of the request; made again, it finds the row.
_CONFLICTS = ("UniqueViolation", "UNIQUE constraint failed", "Duplicate entry", "duplicate key")
#: The same of a connection that a database has cut.
_CUT = ("InterfaceError", "invalid transaction is rolled back")
#: What SQLAlchemy puts before the words of a database.
_CLASS_OF_DRIVER = re.compile(r"^\([\w.]+\) ")
#: How SQLite and PostgreSQL say that their disk is full, somewhere in what MLflow makes of it.
_FULL = ("database or disk is full", "No space left on device")
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 8.0
#: Seconds for which one request is tried again.
PATIENCE_S = 30.0
#: Seconds that all requests of a pass together may have waited in vain, before trouble ends each of them at once.
_WASTED_S = 60.0


class StoppedError(Exception):
    """Raised in place of a request, once the pass is to end."""


class Patience:
    """Repeats requests to one store while it is in trouble. Shared by the threads of a pass.

    Waits double from 0.25 s to 8 s, each cut at random, so that many collectors do not come back at the same moment.

    Args:
        say: is told once that the store is in trouble, and once that it works again.
        patience_s: seconds for which one request is tried again.
    """

    def __init__(self, say: Callable[[str], None] | None = None, patience_s: float = PATIENCE_S) -> None:
        self._say = say
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._is_trouble_said = False
        self._is_over_said = False
        self._wasted_s = 0.0

    def stop(self) -> None:
        """End every request at its next repetition, and refuse new ones."""
        self._stop.set()

    def call(self, request: Callable[[], _Answer]) -> _Answer:
        """What the request answers. It may be carried out several times.

        Raises:
            StoppedError: the pass is to end.
            Exception: what the request raised, if that is no trouble of the store, or patience is at its end.
        """
        begun, wait_s, has_met_trouble = time.monotonic(), _FIRST_WAIT_S, False
        while True:
            if self._stop.is_set():
                raise StoppedError
            try:
                answer = request()
            except Exception as error:
                if not is_trouble(error):
                    raise
                spent_s = time.monotonic() - begun
                pause_s = random.uniform(wait_s / 2, wait_s)
                if self._wasted_s > _WASTED_S or spent_s + pause_s > self._patience_s:
                    with self._lock:
                        self._wasted_s += spent_s
                    raise
                if not _is_conflict(error):
                    self._say_trouble(error)
                    has_met_trouble = True
                self._stop.wait(pause_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            else:
                if has_met_trouble:
                    self._say_over()
                return answer

    def _say_trouble(self, error: Exception) -> None:
        with self._lock:
            is_news, self._is_trouble_said = not self._is_trouble_said, True
        if self._say is not None and is_news:
            self._say(f"the tracking store is in trouble ({explained(error)}); trying again")

    def _say_over(self) -> None:
        """Only a request that has waited says so: others may come through while the trouble lasts."""
        with self._lock:
            is_news, self._is_over_said = not self._is_over_said, True
        if self._say is not None and is_news:
            self._say("the tracking store answers again")


class PatientClient:
    """An :class:`MlflowClient` whose requests are repeated while the store is in trouble.

    Not those that create or link something, because the answer may be lost and not the request: MLflow would then have
    it twice, or refuse to have it twice. The whole run is gone through again instead, which begins with a look at what
    is there.
    """

    def __init__(self, client: MlflowClient, patience: Patience) -> None:
        self._client = client
        self._patience = patience

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method
        if name.startswith(("create_", "log_inputs", "log_outputs")):
            return lambda *args, **kwargs: _asked(lambda: method(*args, **kwargs))
        return lambda *args, **kwargs: self._patience.call(lambda: _asked(lambda: method(*args, **kwargs)))


def _asked(request: Callable[[], _Answer]) -> _Answer:
    """What the request answers.

    Raises:
        MlflowException: also where MLflow lets an error of the database through: if its connection was cut, the
            rollback fails too.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return request()
    except SQLAlchemyError as error:
        raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error


def patient(client: MlflowClient, patience: Patience | None) -> MlflowClient:
    """The client, with patience; None has none."""
    return cast("MlflowClient", PatientClient(client, patience or Patience(patience_s=0)))


def answers(client: MlflowClient) -> bool:
    """Whether the store answers the simplest of questions, asked once."""
    asked = client._client if isinstance(client, PatientClient) else client
    try:
        _asked(lambda: asked.search_experiments(max_results=1))
    except Exception as error:
        if not is_trouble(error):
            raise
        return False
    return True


def is_trouble(error: BaseException) -> bool:
    """Whether the same request may succeed later: the store is in trouble, or somebody else wrote the same just now."""
    if is_full(error):
        return False
    error = _unmasked(error)
    if _is_conflict(error) or _is_bad_request(error, _CUT) or _is_of(error, "sqlalchemy.exc", "DBAPIError"):
        return True
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _TROUBLE_STATUS
    code = getattr(error, "error_code", None)
    if code is not None:
        return code in _TROUBLE
    return _is_of(error, "requests.exceptions", "RequestException")


def _is_conflict(error: BaseException) -> bool:
    return _is_bad_request(error, _CONFLICTS)


def _unmasked(error: BaseException) -> BaseException:
    """What kept MLflow from looking something up, where it says that the id is wrong whatever the reason."""
    cause = error.__cause__
    if cause is None or getattr(error, "error_code", None) != "INVALID_PARAMETER_VALUE":
        return error
    return cause if is_trouble(cause) else error


def _is_bad_request(error: BaseException, signs: Sequence[str]) -> bool:
    """Whether MLflow says so of what was no fault of the request."""
    return getattr(error, "error_code", None) == "BAD_REQUEST" and any(sign in str(error) for sign in signs)


def is_refused_login(error: BaseException) -> bool:
    """Whether the server wants another name or password, or one that may do more."""
    return _status(error) in _REFUSES_LOGIN_STATUS or getattr(error, "error_code", None) in _REFUSES_LOGIN


def is_forbidden(error: BaseException) -> bool:
    """Whether the server takes the login, and does not let it do what was asked."""
    return _status(error) == _FORBIDDEN_STATUS or getattr(error, "error_code", None) == "PERMISSION_DENIED"


def is_full(error: BaseException) -> bool:
    """Whether there is no space where a database of ours or artifacts go. Waiting seconds does not mend that."""
    is_file_system = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return is_file_system or any(sign in str(error) for sign in _FULL)


def explained(error: BaseException) -> str:
    """What an error of the store says, in the words of its innermost cause and without addresses, SQL or HTML."""
    if is_refused_login(error):
        return "it does not let this login do that" if is_forbidden(error) else "it refuses the login"
    error = _unmasked(error)
    cause = _http_cause(error)
    if cause is not None:
        return cause
    full = next((sign for sign in _FULL if sign in str(error)), None)
    if full is not None:
        return full
    lines = _CLASS_OF_DRIVER.sub("", str(error).strip()).splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _http_cause(error: BaseException) -> str | None:
    """What requests and urllib3 wrapped: a status, a refused connection, silence."""
    status = _status(error)
    if status is not None and status >= 400:
        return f"it answers with HTTP status {status}"
    inner: BaseException | None = error if _is_of(error, "requests.exceptions", "RequestException") else None
    inner = inner or error.__context__
    if inner is None or not _is_of(inner, "requests.exceptions", "RequestException"):
        return None
    text = str(inner)
    for sign, words in (
        ("error responses", "it answers with HTTP status " + text.partition("too many ")[2][:3]),
        ("onnection refused", "connection refused"),
        ("imed out", "no answer in time"),
        ("Name or service not known", "its name is not known"),
        ("onnection aborted", "the connection was cut"),
        ("onnection reset", "the connection was cut"),
        ("without response", "the connection was cut"),
        ("IncompleteRead", "the connection was cut"),
    ):
        if sign in text:
            return words
    return f"it cannot be reached: {type(inner).__name__}"


def _status(error: BaseException) -> int | None:
    """The HTTP status of an answer that requests made an error of."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_of(error: BaseException, module: str, name: str) -> bool:
    """Whether an error is of a class, without importing its module."""
    return any((kind.__module__, kind.__name__) == (module, name) for kind in type(error).__mro__)
