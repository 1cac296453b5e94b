"""What a run is: its identity, and the ``spec.json`` that the controller writes once into the run directory."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from trainers.config import (
    IDENTITY_SECTIONS,
    SCHEMA_VERSION,
    Balanced,
    ListFile,
    Profile,
    RunConfig,
    canonical_json,
    identity,
)

#: Changes only if the same settings come to mean another training. Every run id changes with it.
IDENTITY_VERSION = 1
ID_LENGTH = 12

#: Packages whose version can change a number, or explain one.
RECORDED_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "scikit-learn",
    "safetensors",
    "mlflow",
    "ray",
    "ssl-sweep",
)

_GIT_TIMEOUT_S = 5.0


def run_id(config: RunConfig) -> str:
    """The first 12 hexadecimal digits of SHA-256 over the canonical JSON of everything that changes the numbers."""
    return run_id_of_texts({name: section_text(getattr(config, name)) for name in IDENTITY_SECTIONS})


def section_text(value: BaseModel | int) -> str:
    """Canonical JSON of what of one section takes part in the identity."""
    return canonical_json(identity(value) if isinstance(value, BaseModel) else value)


def run_id_of_texts(texts: Mapping[str, str]) -> str:
    """The run id, given the :func:`section_text` of each section of the identity.

    Joining the texts in the order of their names is the canonical JSON of the whole, without encoding it again for
    each of many runs that share sections.
    """
    members = sorted({**texts, "version": str(IDENTITY_VERSION)}.items())
    text = "{" + ",".join(f'"{name}":{value}' for name, value in members) + "}"
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


@dataclass(frozen=True)
class RunSpec:
    """``spec.json``: one resolved run.

    Attributes:
        run_id: follows from ``config``.
        config: with absolute paths, because the trainer may start in any folder.
        provenance: where the run comes from, see :func:`provenance`.
    """

    run_id: str
    config: RunConfig
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RunConfig, provenance: Mapping[str, Any], folder: Path) -> Self:
        """The spec of ``config``, with relative paths taken from ``folder``."""
        return cls(run_id(config), with_absolute_paths(config, folder), provenance)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "config": self.config.model_dump(mode="json"),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a ``spec.json``.

        Raises:
            ValueError: another schema version wrote it, or it is not a valid run.
        """
        version = value.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version={version} was written by another version; this one reads {SCHEMA_VERSION}"
            )
        return cls(value["run_id"], RunConfig.model_validate(value["config"]), value.get("provenance", {}))


def with_absolute_paths(config: RunConfig, folder: Path) -> RunConfig:
    """``config`` with relative paths taken from ``folder``. Links are kept: where they lead may differ by node."""

    def absolute(path: str) -> str:
        return str((folder / Path(path).expanduser()).absolute())

    def with_absolute_list(profile: Profile) -> Profile:
        if isinstance(profile, ListFile):
            return profile.model_copy(update={"path": absolute(profile.path)})
        if isinstance(profile, Balanced) and profile.match is not None:
            return profile.model_copy(update={"match": with_absolute_list(profile.match)})
        return profile

    class_list = config.data.class_list
    data = config.data.model_copy(
        update={
            "root": absolute(config.data.root),
            "profile": with_absolute_list(config.data.profile),
            "class_list": None if class_list is None else absolute(class_list),
        }
    )
    transfer = tuple(other.model_copy(update={"root": absolute(other.root)}) for other in config.evaluate.transfer)
    evaluate = config.evaluate.model_copy(update={"transfer": transfer})
    return config.model_copy(update={"data": data, "evaluate": evaluate})


def provenance(
    experiment_name: str, digest: str, overrides: Sequence[str] = (), site: Path | None = None
) -> dict[str, Any]:
    """Where runs come from: code, versions, experiment file and time. The same for all runs of one submission.

    Args:
        experiment_name: name of the experiment.
        digest: of the experiment file and what it extends.
        overrides: the ``key=value`` of each ``--set``.
        site: the site profile that the experiment stands on.
    """
    return {
        "experiment": {
            "name": experiment_name,
            "digest": digest,
            "overrides": list(overrides),
            "site": None if site is None else str(site.absolute()),
        },
        "git": git_state(Path(__file__)),
        "python": platform.python_version(),
        "packages": package_versions(),
        "time": time.time(),
    }


def git_state(file: Path) -> dict[str, Any] | None:
    """Commit of the checkout that tracks ``file``, and whether tracked files differ from it; None if none does.

    A package that is installed into an environment inside some other checkout is not tracked by it.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file.parent, "rev-parse", "HEAD")
    status = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    # Inside a git hook, these variables would name another repository than the one of the folder.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def package_versions() -> Mapping[str, str]:
    """Installed versions of the packages that can change a number, by name."""
    found = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
