"""Atomic writing and forgiving reading of JSON files that several processes share.

A reader sees the old file or the new one, never half of either, also after a power cut: the temporary file is synced
before it is renamed, and the folder afterwards. Temporary names carry the process id, so that two writers never share
one.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Up to so many, files are synced one by one: all of a shared file system may take longer.
_FEW_FILES = 16


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` with ``data`` atomically and durably.

    Raises:
        OSError: the folder does not exist or cannot be written, or the disk is full. The old file is then untouched.
    """
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_all(files: Mapping[Path, bytes]) -> None:
    """Replace many files of one file system, each as :func:`write_bytes` does. All are durable when this returns.

    Waiting for the disk twice per file takes half a minute for ten thousand. Here it is waited for twice altogether:
    before any file is renamed, and after all are.

    Raises:
        OSError: as for :func:`write_bytes`; some files may then be replaced and others not.
    """
    if len(files) <= _FEW_FILES:
        for path, data in files.items():
            write_bytes(path, data)
        return
    temporaries = {path: _temporary(path) for path in files}
    try:
        for path, data in files.items():
            temporaries[path].write_bytes(data)
        _sync_file_system(next(iter(files)).parent)
        for path, temporary in temporaries.items():
            temporary.replace(path)
    except BaseException:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        raise
    _sync_file_system(next(iter(files)).parent)


def share(file: Path, path: Path) -> None:
    """Give a file that never changes another name, in place of what has it; a copy where links are not to be had.

    Raises:
        OSError: as for :func:`write_bytes`.
    """
    temporary = _temporary(path)
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:  # there may be ten thousand names, and some file systems allow a thousand, or none
            shutil.copyfile(file, temporary)
        os.replace(temporary, path)
        temporary.unlink(missing_ok=True)  # two names of one file: the kernel then leaves both
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_file_system(folder: Path) -> None:
    """Wait until everything that was written to the file system of ``folder`` is durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(folder))
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def json_bytes(value: Any) -> bytes:
    """``value`` as readable JSON. NaN and infinity are refused (``ValueError``)."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def json_lines_bytes(value: Mapping[str, Any]) -> bytes:
    """The same object with one line for each member of a member: as good as readable, and ten times as fast."""

    def member(key: str, item: Any) -> str:
        if not isinstance(item, Mapping) or not item:
            return f"  {json.dumps(key)}: {json.dumps(item, allow_nan=False)}"
        inner = (f"    {json.dumps(name)}: {json.dumps(part, allow_nan=False)}" for name, part in item.items())
        return f"  {json.dumps(key)}: {{\n" + ",\n".join(inner) + "\n  }"

    return ("{\n" + ",\n".join(member(key, item) for key, item in value.items()) + "\n}\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` with ``value`` as readable JSON. NaN and infinity are refused (``ValueError``)."""
    write_bytes(path, json_bytes(value))


def create_json_exclusively(path: Path, value: Any) -> bool:
    """Create ``path`` with its whole content, or leave it alone and answer False if it is there already.

    Of several processes that try at once exactly one is answered True, also on NFS, and no reader sees half a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    write_bytes(temporary, json_bytes(value))
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def read_json(path: Path) -> Any | None:
    """The content of a JSON file, or None where there is none.

    Raises:
        ValueError: the file is not JSON. With :func:`write_json` as the only writer, someone else damaged it.
    """
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: damaged JSON ({error}); remove the file or restore it") from error


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut. A no-op on file systems that cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse fsync on folders; the rename itself is still atomic
    finally:
        os.close(descriptor)


def read_jsonl(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Any]:
    """The complete lines between two byte offsets of an append-only JSON-lines file.

    A torn last line (the writer was killed inside it) is not complete and is left out.
    """
    if not path.exists():
        return
    with open(path, "rb") as file:
        file.seek(start)
        position = start
        for line in file:
            position += len(line)
            if not line.endswith(b"\n") or (stop is not None and position > stop):
                return
            yield json.loads(line)
