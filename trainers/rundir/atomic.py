"""Atomic writing and forgiving reading of JSON files that several processes share.

A reader sees the old file or the new one, never half of either, also after a power cut: the temporary file is synced
before it is renamed, and the folder afterwards. Temporary names carry the process id, so that two writers never share
one.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` with ``data`` atomically and durably.

    Raises:
        OSError: the folder does not exist or cannot be written, or the disk is full. The old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
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


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` with ``value`` as readable JSON. NaN and infinity are refused (``ValueError``)."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def create_json_exclusively(path: Path, value: Any) -> bool:
    """Create ``path`` with its whole content, or leave it alone and answer False if it is there already.

    Of several processes that try at once exactly one is answered True, also on NFS, and no reader sees half a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    write_bytes(temporary, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
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
