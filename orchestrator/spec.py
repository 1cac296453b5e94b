"""What a run is: its identity, and the ``spec.json`` that the controller writes once into the run directory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
        provenance: where the run comes from, see :mod:`orchestrator.provenance`.
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
