"""What a Ray job runs in: its Python, its environment variables, and the user's runtime environment around them."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from typing import Any

from orchestrator.backends.ray.manifest import Manifest
from orchestrator.backends.source import python_path
from orchestrator.experiment.schema import Ray

#: What in a runtime environment brings another Python than that of the nodes.
_BRINGS_PYTHON = frozenset({"pip", "uv", "conda", "container", "image_uri", "py_executable"})


def entrypoint(manifest: Manifest, options: Ray) -> str:
    """The shell line of the Ray job."""
    return shlex.join([python_of(options), "-m", "orchestrator.backends.ray.driver", str(manifest.path)])


def python_of(options: Ray) -> str:
    """The Python that the driver is run by; what it starts on other nodes, Ray runs by the same."""
    return options.python or ("python" if _BRINGS_PYTHON & options.runtime_env.keys() else sys.executable)


def runtime_env_of(options: Ray) -> dict[str, Any]:
    """The user's runtime environment, with what our jobs need."""
    return {**options.runtime_env, "env_vars": variables_of(options)}


def environment_problems(options: Ray) -> list[str]:
    """What Ray itself has to say against the runtime environment."""
    if not options.runtime_env:
        return []
    from ray.runtime_env import RuntimeEnv  # takes a second, and most experiments have none

    try:
        RuntimeEnv(**options.runtime_env)
    except (TypeError, ValueError) as error:
        return [f"backend.runtime_env: {' '.join(str(error).split())}"]
    # Ray would ignore what it does not know. Plugins of a site make further names known.
    known = {name for name in RuntimeEnv.known_fields if not name.startswith("_")}
    unknown = [] if "RAY_RUNTIME_ENV_PLUGINS" in os.environ else sorted(options.runtime_env.keys() - known)
    return [
        f"backend.runtime_env.{name} is not an option of Ray's runtime environments; "
        + (f"did you mean {near[0]}? " if (near := difflib.get_close_matches(name, known, n=1)) else "")
        + f"(options: {', '.join(sorted(known))})"
        for name in unknown
    ]


def variables_of(options: Ray) -> dict[str, str]:
    """Environment variables of the job on all its nodes."""
    named: dict[str, str] = options.runtime_env.get("env_vars", {})
    found = {
        # A worker that ends would kill its launchers at once, although they checkpoint when they see it go.
        "RAY_kill_child_processes_on_worker_exit": "false",
        **named,
    }
    if not _BRINGS_PYTHON & options.runtime_env.keys() and (path := python_path(named.get("PYTHONPATH"))):
        found["PYTHONPATH"] = path
    return found
