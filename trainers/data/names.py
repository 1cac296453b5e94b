"""Files that name classes, one a line; lines that begin with ``#`` are remarks."""

from __future__ import annotations

from pathlib import Path

from trainers.data.problem import DataProblem


def read_names(path: Path, option: str) -> tuple[str, ...]:
    """The names in a file, in its order.

    Args:
        option: what names the file, for messages.

    Raises:
        DataProblem: the file cannot be read, is empty, or has a name twice.
    """
    names: list[str] = []
    for number, line in enumerate(read_lines(path, option), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in names:
            raise DataProblem(f"{path}:{number}: {name!r} is in the list twice; remove one", option)
        names.append(name)
    if not names:
        raise DataProblem(f"{option}={path} names nothing; write one name a line", option)
    return tuple(names)


def read_lines(path: Path, option: str) -> list[str]:
    """The lines of a text file.

    Raises:
        DataProblem: there is no such file, or it is no text.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataProblem(f"{option}={path} cannot be read: {error.strerror}", option) from error
    except UnicodeDecodeError as error:
        raise DataProblem(f"{option}={path} is no text ({error.reason} at byte {error.start})", option) from error
