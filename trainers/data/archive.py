"""Files by name, in a folder or in a zip file, read the same way from any process."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from trainers.data.problem import DataProblem

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Archive(Protocol):
    """A read-only tree of files. Names use ``/``; hidden files and folders are not seen.

    Every method raises :class:`DataProblem` for what cannot be read.
    """

    def folders(self, inside: str = "") -> list[str]:
        """Names of the folders directly inside a folder (``""``, or a name that ends in ``/``), sorted."""

    def images(self, inside: str) -> list[str]:
        """Full names of all image files below a folder, sorted."""

    def size(self, name: str) -> int:
        """Size of a file in bytes."""

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def locate(self, name: str) -> str:
        """Where a file or folder is, for messages."""


class Folder:
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def folders(self, inside: str = "") -> list[str]:
        try:
            with os.scandir(self._path / inside) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        except OSError as error:
            raise self._unreadable(inside, error) from error

    def images(self, inside: str) -> list[str]:
        return sorted(self._walk(inside))

    def size(self, name: str) -> int:
        try:
            return (self._path / name).stat().st_size
        except OSError as error:
            raise self._unreadable(name, error) from error

    def read(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from error

    def locate(self, name: str) -> str:
        return str(self._path / name)

    def _walk(self, inside: str) -> Iterator[str]:
        # Links to folders are followed: data sets are often put together from links.
        for folder in self.folders(inside):
            yield from self._walk(f"{inside}{folder}/")
        with os.scandir(self._path / inside) as entries:
            for entry in entries:
                if _is_image(entry.name) and not entry.is_dir():
                    yield inside + entry.name

    def _unreadable(self, name: str, error: OSError) -> DataProblem:
        return DataProblem(f"{self.locate(name)} cannot be read: {error.strerror}")


class Zip:
    """A zip file. Each process opens it for itself: processes that share a file position read each other's bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self._visible: list[str] | None = None

    def folders(self, inside: str = "") -> list[str]:
        below = (name[len(inside) :] for name in self._names(inside))
        return sorted({name.split("/", 1)[0] for name in below if "/" in name})

    def images(self, inside: str) -> list[str]:
        return [name for name in self._names(inside) if _is_image(name)]

    def size(self, name: str) -> int:
        return self._file().getinfo(name).file_size

    def read(self, name: str) -> bytes:
        try:
            return self._file().read(name)
        # Besides its own error, zipfile raises what its decompressors raise, and others for encrypted members.
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise DataProblem(f"{self.locate(name)} cannot be read: {error}") from error

    def locate(self, name: str) -> str:
        return f"{self._path}:{name}" if name else str(self._path)

    def _names(self, inside: str) -> list[str]:
        """All names below a folder, sorted."""
        if self._visible is None:
            self._visible = sorted(
                name for name in self._file().namelist() if not name.startswith(("__MACOSX/", ".")) and "/." not in name
            )
        if not inside:
            return self._visible
        after = inside[:-1] + chr(ord("/") + 1)  # the first text that does not begin with the folder's name
        return self._visible[bisect_left(self._visible, inside) : bisect_left(self._visible, after)]

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
        DataProblem: the file cannot be read, or is no whole image.
    """
    content = archive.read(name)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    # Besides its own errors, PIL raises what the parsers of single formats stumble over.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataProblem(
            f"{archive.locate(name)} ({len(content)} bytes) cannot be decoded: {reason}; replace or remove the file"
        ) from error


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """(3, H, W), a view of the image's own memory where that is possible."""
    return np.asarray(image, np.uint8).transpose(2, 0, 1)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
