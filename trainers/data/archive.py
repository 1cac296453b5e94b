"""Files by name, in a folder or in a zip file, read the same way from any process."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainers.data.problem import DataProblem

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Archive(Protocol):
    """A read-only tree of files. Names use ``/``."""

    def sizes(self) -> Mapping[str, int]:
        """Size in bytes of every image file, by name, in no particular order."""

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            DataProblem: the file cannot be read.
        """

    def locate(self, name: str) -> str:
        """Where a file is, for messages."""


class Folder:
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sizes(self) -> Mapping[str, int]:
        return dict(_walk(str(self._path), ""))

    def read(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise DataProblem(f"{self.locate(name)} cannot be read: {error.strerror}") from error

    def locate(self, name: str) -> str:
        return str(self._path / name)


class Zip:
    """A zip file. Each process opens it for itself: processes that share a file position read each other's bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def sizes(self) -> Mapping[str, int]:
        return {
            entry.filename: entry.file_size
            for entry in self._file().infolist()
            if entry.filename.lower().endswith(IMAGE_SUFFIXES)
        }

    def read(self, name: str) -> bytes:
        try:
            return self._file().read(name)
        except (OSError, zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError) as error:
            raise DataProblem(f"{self.locate(name)} cannot be read: {error}") from error

    def locate(self, name: str) -> str:
        return f"{self._path}:{name}"

    def _file(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self._path))
            except (OSError, zipfile.BadZipFile) as error:
                raise DataProblem(f"{self._path} cannot be read as a zip file: {error}") from error
        return self._opened[1]


def open_archive(path: Path) -> Archive:
    """The folder or zip file at ``path``.

    Raises:
        DataProblem: there is none.
    """
    if path.is_dir():
        return Folder(path)
    if path.is_file() and path.suffix.lower() == ".zip":
        return Zip(path)
    found = "is neither a folder nor a zip file" if path.exists() else "does not exist"
    raise DataProblem(f"data.root={path} {found}; set it to the folder or zip file that holds the images")


def decode(archive: Archive, name: str) -> Image.Image:
    """An image as RGB, whole.

    Raises:
        DataProblem: the file cannot be read, or is no image.
    """
    data = archive.read(name)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    # What PIL raises for damaged files: its own errors, and those of the parsers of single formats.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = "it is no image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataProblem(
            f"{archive.locate(name)} ({len(data)} bytes) cannot be decoded: {reason}; replace or remove the file"
        ) from error


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """(3, H, W), not copied where that is possible."""
    return np.asarray(image, np.uint8).transpose(2, 0, 1)


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Image files below a folder. Links to folders are followed, as people link data sets together."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
                yield prefix + entry.name, entry.stat().st_size
