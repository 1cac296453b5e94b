"""Asking a cluster over HTTP: Ray's Jobs API and its list of nodes, one question each.

Questions are asked without importing Ray, which takes more than a second. Ray's own client submits, because it packs
and uploads what a runtime environment names.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.backends.base import Refused, Unreachable
from orchestrator.backends.ray.demands import Node
from orchestrator.backends.ray.manifest import SUBMISSION_ID_PREFIX
from orchestrator.backends.ray.states import RayJob
from orchestrator.errors import last_line

#: Seconds that a cluster has to answer a question.
_TIMEOUT_S = 10.0
#: Seconds that it has to take a job, or a part of what a job brings along.
_SUBMIT_TIMEOUT_S = 60.0
#: More nodes than Ray's API lists in one answer.
_MAX_NODES = 10_000
_DOCTOR = "`sweep doctor --backend ray` says more"
_TOKENS = "set RAY_AUTH_MODE=token and the cluster's token in RAY_AUTH_TOKEN, or its file in RAY_AUTH_TOKEN_PATH"


class Api:
    """The HTTP interface of one cluster. Every question raises Refused where the cluster does not let us in.

    Args:
        address: of the dashboard, such as ``http://head:8265``.
        token_path: file of the cluster's token; None is what Ray's own variables say.
    """

    def __init__(self, address: str, token_path: Path | None = None) -> None:
        self.address = address.rstrip("/")
        self._token_path = token_path

    # --- questions --------------------------------------------------------------------------------------------------

    def ray_version(self) -> str:
        """The version of Ray that the cluster runs.

        Raises:
            Unreachable: no answer, or one that is not Ray's.
        """
        return str(self._fields(self._get("/api/version"), "ray_version")["ray_version"])

    def jobs(self) -> Mapping[str, RayJob]:
        """Submission id -> job, for all jobs that are ours by their names.

        Raises:
            Unreachable: no answer, or one that is not Ray's.
        """
        answer = self._get("/api/jobs/")
        if not isinstance(answer, list):
            raise Unreachable(self._not_ray())
        found = [job_of(value) for value in answer if isinstance(value, dict)]
        return {job.submission_id: job for job in found if job.submission_id.startswith(SUBMISSION_ID_PREFIX)}

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that are alive.

        Raises:
            Unreachable: no answer, or one that is not Ray's.
        """
        answer = self._fields(self._get(f"/api/v0/nodes?detail=1&limit={_MAX_NODES}"), "data")
        rows = self._fields(self._fields(answer["data"], "result")["result"], "result")["result"]
        return tuple(Node(row["resources_total"] or {}) for row in rows if row["state"] == "ALIVE")

    def object_stores(self) -> Mapping[str, float]:
        """Node -> share of its object store that is used, 0 to 1, some seconds ago.

        Raises:
            Unreachable: no answer, or one that is not Ray's.
        """
        answer = self._fields(self._get("/nodes?view=summary"), "data")
        rows = self._fields(answer["data"], "summary")["summary"]
        found = {}
        for row in rows:
            raylet = row.get("raylet", {})
            used, free = raylet.get("objectStoreUsedMemory", 0), raylet.get("objectStoreAvailableMemory", 0)
            if raylet.get("state") == "ALIVE" and used + free > 0:  # a node that has just begun has counted nothing yet
                found[f"{row['hostname']} ({raylet['nodeId'][:6]})"] = used / (used + free)
        return found

    def asks_for_token(self) -> bool:
        """Whether the cluster lets in only who shows its token.

        Raises:
            Unreachable: no answer, or one that is not Ray's.
        """
        answer = self._fields(self._get("/api/authentication_mode"), "authentication_mode")
        return str(answer["authentication_mode"]).lower() == "token"

    def log(self, submission_id: str) -> str:
        """What the job has printed.

        Raises:
            Unreachable: no answer, or the cluster does not have the job.
        """
        return str(self._fields(self._get(f"/api/jobs/{submission_id}/logs"), "logs")["logs"] or "")

    def description(self, submission_id: str) -> Mapping[str, Any]:
        """Everything that the cluster says of a job, in Ray's words.

        Raises:
            Unreachable: no answer, or the cluster does not have the job.
        """
        return self._fields(self._get(f"/api/jobs/{submission_id}"), "entrypoint")

    def stop(self, submission_id: str) -> None:
        """End a job; one that is over stays as it is.

        Raises:
            Unreachable: no answer, or the cluster does not have the job.
        """
        self._get(f"/api/jobs/{submission_id}/stop", method="POST")

    def _get(self, path: str, method: str = "GET") -> Any:
        url = self.address + path
        request = urllib.request.Request(url, headers=self._headers(), method=method)  # noqa: S310 - http by construction
        try:
            with _opener(self.address).open(request, timeout=_TIMEOUT_S) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise Refused(self._not_let_in()) from error
            raise Unreachable(self._silent(f"it says {error.code}")) from error
        except urllib.error.URLError as error:
            raise Unreachable(self._silent(str(error.reason))) from error
        except json.JSONDecodeError as error:
            raise Unreachable(self._not_ray()) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unreachable(self._silent(str(error))) from error

    def _fields(self, value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict) or name not in value:
            raise Unreachable(self._not_ray())
        return value

    def _headers(self) -> dict[str, str]:
        token = self._token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _token(self) -> str:
        """The token to show; empty if none is asked of us."""
        if self._token_path is not None:
            return _text_of(self._token_path)
        if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            return ""
        if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
            return token
        return _text_of(Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser())

    # --- submitting -------------------------------------------------------------------------------------------------

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Submit a job. Submitting the same id again starts nothing.

        Raises:
            Refused: the cluster said no.
            Unreachable: no answer; the cluster may have taken the job.
        """
        import requests
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):
            # Ray's own waits for ever.
            def _do_request(self, method: str, endpoint: str, **arguments: Any) -> Any:
                return super()._do_request(method, endpoint, **{"timeout": _SUBMIT_TIMEOUT_S, **arguments})

        try:
            with _addressing(self.address):
                Client(self.address, headers=self._headers()).submit_job(
                    entrypoint=entrypoint,
                    submission_id=submission_id,
                    runtime_env=dict(runtime_env),
                    metadata=dict(metadata),
                )
        except AuthenticationError as error:
            raise Refused(self._not_let_in()) from error
        except (requests.RequestException, OSError) as error:
            raise Unreachable(self._silent(_reason(str(error)))) from error
        except (TypeError, ValueError) as error:
            raise Refused(f"Ray refused the job: backend.runtime_env: {_reason(str(error))}") from error
        except RuntimeError as error:
            self._judge(submission_id, str(error), error)

    def _judge(self, submission_id: str, text: str, error: RuntimeError) -> None:
        """What an error of Ray's client means for the job, by the answer that it quotes."""
        if submission_id in text and "already exists" in text:
            return
        # The head passes on what an agent has answered, in an answer of its own.
        statuses = re.findall(r"status code ([0-9]+)", text)
        answer = _reason(text)
        if statuses and statuses[-1].startswith("4"):
            raise Refused(f"Ray refused the job: {answer}; correct the section `backend`") from error
        raise Unreachable(self._silent(answer)) from error

    # --- sentences --------------------------------------------------------------------------------------------------

    def _silent(self, why: str) -> str:
        return f"the Ray cluster at {self.address} does not answer ({why}); {_DOCTOR}"

    def _not_ray(self) -> str:
        return f"what answers at {self.address} is not the dashboard of Ray; backend.address is its address"

    def _not_let_in(self) -> str:
        has = "the token that was shown is not its own" if self._token() else "it asks for a token"
        return f"the Ray cluster at {self.address} lets us not in: {has}; {_TOKENS}"


def job_of(value: Mapping[str, Any]) -> RayJob:
    """A job as the Jobs API describes it."""
    ended = value.get("end_time")
    exit_code = value.get("driver_exit_code")
    return RayJob(
        submission_id=str(value.get("submission_id") or ""),
        status=str(value.get("status") or ""),
        message=str(value.get("message") or ""),
        error_type=str(value.get("error_type") or ""),
        exit_code=exit_code if isinstance(exit_code, int) else None,
        ended=ended / 1000 if isinstance(ended, int | float) and ended > 0 else None,
    )


def _opener(address: str) -> urllib.request.OpenerDirector:
    # A proxy of the site leads to other machines, and never back to this one.
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if _is_loopback(address) else []))


def _is_loopback(address: str) -> bool:
    host = urllib.parse.urlsplit(address).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


@contextmanager
def _addressing(address: str) -> Iterator[None]:
    """Let Ray's client ask this cluster: its own variables come before what its arguments say."""
    changes = {"RAY_API_SERVER_ADDRESS": address}
    if _is_loopback(address):
        changes |= {"NO_PROXY": "*", "no_proxy": "*"}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _text_of(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _reason(text: str) -> str:
    return last_line(text).rstrip(".") or "it does not say why"
