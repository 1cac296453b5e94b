"""Encoders as files that torch loads without this package: a graph per architecture, and each run's weights in it.

The graph is exported in a process of its own, once in a workspace for each architecture and version of torch, which
takes seconds. The file is a zip archive whose records of weights are plain bytes; those of a run are put in their
places without torch, as fast as the file can be written. No pickle is made or read.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.collect.payload import fingerprint

#: Seconds that an export may take; that of a ViT-B takes one tenth.
_EXPORT_S = 300.0
_TORCH_VERSION = "/extra/torch"
_WEIGHTS_CONFIG = "/data/weights/model_weights_config.json"
#: safetensors puts the length of its header into so many bytes, and headers of real networks are far smaller.
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


class NotExportedError(Exception):
    """An encoder cannot be made into a file that torch loads by itself; one sentence says why."""


@dataclass(frozen=True)
class Weights:
    """A safetensors file, of which only the header is in memory.

    Attributes:
        places: name of each tensor -> first byte and the one behind the last, from the beginning of the file.
        origin: what the trainer says of the weights.
    """

    path: Path
    places: Mapping[str, tuple[int, int]]
    origin: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> Weights:
        """Read the header.

        Raises:
            NotExportedError: it is no safetensors file.
            OSError: it cannot be read.
        """
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = file.read(length) if length < _MAX_HEADER_BYTES else b""
        try:
            described = json.loads(header)
            origin = json.loads(described.pop("__metadata__", {}).get("origin", "{}"))
            first = _LENGTH_BYTES + length
            places = {
                name: (first + tensor["data_offsets"][0], first + tensor["data_offsets"][1])
                for name, tensor in described.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotExportedError(f"{path.name} is not a safetensors file") from error
        return cls(path, places, origin)


@dataclass
class Graphs:
    """The exported graphs of a workspace, shared by threads and processes.

    Attributes:
        folder: where they are kept.
    """

    folder: Path
    _failures: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def graph(self, backbone: Mapping[str, Any], side: int) -> Path:
        """The file with the graph of a backbone for images of ``side`` pixels; exported if it is not there yet.

        Raises:
            NotExportedError: it cannot be exported. Asked again, this process does not try again.
        """
        settings = json.dumps(dict(backbone), sort_keys=True)
        key = fingerprint(repr((settings, side, importlib.metadata.version("torch"))).encode())
        path = self.folder / f"{key}.pt2"
        with self._lock:
            if path.exists():
                return path
            if key not in self._failures:
                problem = _export(settings, side, path)
                if problem is None:
                    return path
                self._failures[key] = problem
            raise NotExportedError(self._failures[key])


def _export(settings: str, side: int, path: Path) -> str | None:
    """What went wrong; None if the file is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "trainers.export", str(path), "--side", str(side)]
    try:
        done = subprocess.run(command, input=settings, capture_output=True, text=True, timeout=_EXPORT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"torch did not export it within {_EXPORT_S:g} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"torch cannot export it: {lines[-1][:300]}"


def fill(graph: Path, weights: Weights, path: Path) -> None:
    """Write a copy of an exported graph with these weights to ``path``.

    Raises:
        NotExportedError: the weights are not of this graph's network.
    """
    with zipfile.ZipFile(graph) as source, zipfile.ZipFile(path, "w") as target, open(weights.path, "rb") as file:
        records = dict(_records(source))
        missing = sorted(set(records.values()) ^ set(weights.places))
        if missing:
            raise NotExportedError(f"{weights.path.name} is of another network: {missing[0]} is in one of them only")
        for info in source.infolist():
            name = records.get(info.filename)
            content = source.read(info) if name is None else _tensor(file, *weights.places[name])
            if len(content) != info.file_size:
                raise NotExportedError(f"{weights.path.name} is of another network: {name} has another size")
            target.writestr(zipfile.ZipInfo(info.filename), content)


def torch_version(graph: Path) -> str:
    """The version of torch that exported a graph, in full."""
    with zipfile.ZipFile(graph) as archive:
        name = next(name for name in archive.namelist() if name.endswith(_TORCH_VERSION))
        return str(json.loads(archive.read(name)))


def _records(archive: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """(record in the archive, name of the tensor in it) of all weights."""
    listed = next((name for name in archive.namelist() if name.endswith(_WEIGHTS_CONFIG)), None)
    if listed is None:
        raise NotExportedError("this version of torch keeps weights otherwise")
    for name, entry in json.loads(archive.read(listed))["config"].items():
        if entry.get("use_pickle"):
            raise NotExportedError(f"torch would keep {name} as a pickle")
        yield f"{listed.rpartition('/')[0]}/{entry['path_name']}", name


def _tensor(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)


_OF_WORKSPACES: dict[Path, Graphs] = {}
_OPENING = threading.Lock()


def graphs_of(cache_dir: Path) -> Graphs:
    """The graphs of a workspace, by the folder of what can be made anew; one object in a process."""
    with _OPENING:
        return _OF_WORKSPACES.setdefault(cache_dir, Graphs(cache_dir / "exported"))
