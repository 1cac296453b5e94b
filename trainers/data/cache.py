"""Decoded images on disk, for all runs to share: built once, mapped into memory by everyone, verified by everyone."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_FORMAT = 1
_TEMPORARY = ".tmp"

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Entry:
    """What the cache holds under one key.

    Attributes:
        arrays: by name; mapped from files where the cache could be written, in memory otherwise.
        digest: of the arrays' content, 32 hex digits.
    """

    arrays: Arrays
    digest: str


def cached(cache_dir: Path, key: str, build: Callable[[], Arrays]) -> Entry:
    """The arrays stored under ``key``; built, and stored, if they are not there or damaged.

    Any number of processes may ask at once: one builds, the others wait for it (where the file system has no locks,
    several build, and the first one to finish wins). A cache that cannot be written costs time, not the run.
    """
    entry_dir = cache_dir / key
    arrays: Arrays | None = None
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / f".{key}.lock") as is_alone:
            entry = _open(entry_dir)
            if entry is not None:
                return entry
            if is_alone:
                _remove_leftovers(entry_dir)
            arrays = build()
            _store(entry_dir, arrays)
            entry = _open(entry_dir)
            if entry is not None:
                return entry
    except OSError as error:
        _log.warning("%s cannot hold decoded images (%s); they are decoded again at each start", cache_dir, error)
    arrays = arrays or build()
    return Entry(arrays, _digest({name: _sha256(array) for name, array in arrays.items()}))


def _open(entry_dir: Path) -> Entry | None:
    """A complete and undamaged entry, or None."""
    try:
        manifest = json.loads((entry_dir / _MANIFEST).read_text())
        if manifest["format"] != _FORMAT:
            return None
        # Copy-on-write maps: torch wants writable memory, and the file must never change.
        arrays = {name: np.load(entry_dir / f"{name}.npy", mmap_mode="c") for name in manifest["sha256"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is damaged (%s); decoding the images again", entry_dir, error)
        return None
    for name, array in arrays.items():
        if _sha256(array) != manifest["sha256"][name]:
            _log.warning("%s/%s.npy is damaged (wrong SHA-256); decoding the images again", entry_dir, name)
            return None
    return Entry(arrays, _digest(manifest["sha256"]))


def _store(entry_dir: Path, arrays: Arrays) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry_dir.name}.", suffix=_TEMPORARY, dir=entry_dir.parent))
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        digests = {name: _sha256(array) for name, array in arrays.items()}
        (temporary / _MANIFEST).write_text(json.dumps({"format": _FORMAT, "sha256": digests}, indent=2) + "\n")
        temporary.chmod(0o755)  # mkdtemp's folders are closed to the colleagues who share the workspace
        shutil.rmtree(entry_dir, ignore_errors=True)  # a damaged entry; those who have it mapped keep it
        temporary.rename(entry_dir)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove_leftovers(entry_dir: Path) -> None:
    """Remove what a killed builder has left. Call it with the lock: whoever else builds would lose its work."""
    for leftover in entry_dir.parent.glob(f".{entry_dir.name}.*{_TEMPORARY}"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a file. The system lets go of it when the process dies.

    Yields:
        Whether there is a lock. Without it, on a file system that has none, renaming still keeps the entry whole.
    """
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            _log.debug("no lock on %s: %s", path, error)
            yield False
        else:
            yield True


def _sha256(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _digest(sha256: Mapping[str, str]) -> str:
    text = json.dumps(dict(sha256), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
