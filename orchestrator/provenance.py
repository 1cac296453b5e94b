"""Where runs come from: the source they run from, down to what is not committed, and the versions of packages.

A commit says nothing of a checkout that differs from it, so the difference is kept too: one text for each submission,
which the folders of all its runs share.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.redaction import redacted

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

#: Bytes of a source difference; files beyond that are left out, and named.
MAX_DIFF = 2**20

_GIT_TIMEOUT_S = 5.0
#: The same text whatever the user's configuration of git, and no program that it names is called.
_DIFF = (
    *("-c", "core.quotePath=true", "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--ignore-submodules=dirty", "--unified=3"),
)
#: Of untracked files, those that a run can depend on.
_UNTRACKED = ("*.py", "*.yaml", "*.yml")
#: Names of files that hold secrets. They are never read.
_SECRET = re.compile(
    r"(.*/)?(\.env(\..*)?|[^/]*\.(env|pem|key|p12|pfx|jks|kdbx)|\.(netrc|npmrc|pypirc|pgpass|htpasswd)|id_[a-z0-9]+"
    r"|[^/]*(secret|credential|passw)[^/]*)",
    re.IGNORECASE,
)
#: Names that a difference can hold without quoting them.
_PLAIN_NAME = re.compile(r"[\w.,+@=~/-]+", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A checkout: its commit, and how it differs from that.

    Attributes:
        root: folder of the checkout.
        commit: 40 hexadecimal digits.
        diff: as ``git apply`` takes it; empty where nothing differs.
        left_out: what differs and is not in ``diff``: a path and why, for each file.
    """

    root: Path
    commit: str
    diff: bytes
    left_out: tuple[str, ...]

    @property
    def is_dirty(self) -> bool:
        return bool(self.diff or self.left_out)

    def to_json(self) -> dict[str, Any]:
        """What provenance says of it; without the folder, which means nothing on another machine."""
        digest = hashlib.sha256(self.diff).hexdigest() if self.diff else None
        left_out = {"left_out": list(self.left_out)} if self.left_out else {}
        return {"commit": self.commit, "dirty": self.is_dirty, "diff_sha256": digest, **left_out}


@dataclass(frozen=True)
class Origin:
    """Where the runs of one submission come from.

    Attributes:
        record: as ``spec.json`` holds it under ``provenance``.
        source_diff: content of ``source.diff``; empty where nothing differs.
    """

    record: Mapping[str, Any]
    source_diff: bytes


def origin(
    experiment_name: str,
    digest: str,
    overrides: Sequence[str] = (),
    site: Path | None = None,
    *,
    folder: Path | None = None,
    exclude: Path | None = None,
) -> Origin:
    """Code, versions, experiment file and time: the same for all runs of one submission.

    Args:
        experiment_name: name of the experiment.
        digest: of the experiment file and what it extends.
        overrides: the ``key=value`` of each ``--set``.
        site: the site profile that the experiment stands on.
        folder: where the experiment file lies. The checkout that tracks files there is recorded too.
        exclude: a folder that is no source, such as the workspace.
    """
    ours = own_source()
    theirs = None if folder is None else _source(folder, (folder,), exclude)
    if ours is not None and theirs is not None and ours.root == theirs.root:
        theirs = None
    sources = [source for source in (ours, theirs) if source is not None]
    text = b"".join(_section(source) for source in sources if source.is_dirty)
    record = {
        "experiment": {
            "name": experiment_name,
            "digest": digest,
            "overrides": [redacted(override) for override in overrides],
            "site": None if site is None else str(site.absolute()),
        },
        "git": None if ours is None else ours.to_json(),
        "experiment_git": None if theirs is None else theirs.to_json(),
        "source_diff": {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)} if text else None,
        "python": platform.python_version(),
        "packages": dict(package_versions()),
        "time": time.time(),
    }
    return Origin(record, text)


def own_source() -> Source | None:
    """The checkout that this program runs from; None where it is installed without one.

    A package that is installed into an environment inside some other checkout is not tracked by it.
    """
    file = Path(__file__)
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    return _source(file.parent, _own_folders(), None)


def _own_folders() -> list[Path]:
    root = Path(__file__).parents[1]
    return [root / name for name in ("orchestrator", "trainers", "experiments")]


def _source(folder: Path, untracked_in: Iterable[Path], exclude: Path | None) -> Source | None:
    """The checkout that tracks files of ``folder``; None if there is none.

    Args:
        untracked_in: folders of which files that are not tracked are part of the source.
    """
    folder = folder.resolve()
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    if not top or not commit or not _git(folder, "ls-files", "--", "."):
        return None
    root = Path(os.fsdecode(top.rstrip(b"\n")))
    pieces, left_out = _tracked(_git(root, *_DIFF, timeout_s=4 * _GIT_TIMEOUT_S))
    scopes = [path.resolve() for path in untracked_in]
    inside = [path.relative_to(root).as_posix() for path in scopes if path.is_relative_to(root)]
    patterns = [f":(glob){'' if scope == '.' else f'{scope}/'}**/{name}" for scope in inside for name in _UNTRACKED]
    if exclude is not None and exclude.resolve().is_relative_to(root) and exclude.resolve() != root:
        patterns.append(f":(exclude){exclude.resolve().relative_to(root).as_posix()}")
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *patterns) if inside else b""
    if listed is None:
        left_out.append("files that git does not track (git took too long to list them)")
    names = [os.fsdecode(name) for name in (listed or b"").split(b"\0") if name]
    for name in sorted(names):
        piece = _new_file(root, name)
        if isinstance(piece, str):
            left_out.append(piece)
        else:
            pieces.append((name, piece))
    kept, size = [], 0
    for name, piece in pieces:
        size += len(piece)
        if size > MAX_DIFF:
            size -= len(piece)
            left_out.append(f"{name} (the differences exceed {MAX_DIFF // 2**20} MiB)")
        else:
            kept.append(piece)
    return Source(root, commit.decode().strip(), b"".join(kept), tuple(left_out))


def _tracked(diff: bytes | None) -> tuple[list[tuple[str, bytes]], list[str]]:
    """The difference of each tracked file that can be kept, by name; and what cannot."""
    if diff is None:
        return [], ["changes of tracked files (git took too long to compare them)"]
    pieces: list[tuple[str, bytes]] = []
    left_out: list[str] = []
    for piece in re.split(rb"^(?=diff --git )", diff, flags=re.MULTILINE)[1:]:
        head = piece.partition(b"\n")[0].decode("utf-8", "backslashreplace")
        name = head.rpartition(" b/")[2] or head.removeprefix("diff --git ")
        if _SECRET.fullmatch(name.rstrip('"')):
            left_out.append(f"{name} (its name is that of a file with secrets)")
        elif re.search(rb"^Binary files .* differ$", piece, flags=re.MULTILINE):
            left_out.append(f"{name} (binary)")
        else:
            pieces.append((name, piece))
    return pieces, left_out


def _new_file(root: Path, name: str) -> bytes | str:
    """The difference that adds an untracked file, or why it is left out."""
    if _SECRET.fullmatch(name):
        return f"{name} (its name is that of a file with secrets)"
    if not _PLAIN_NAME.fullmatch(name):
        return f"{name!r} (its name needs quoting)"
    path = root / name
    try:
        if path.is_symlink() or path.stat().st_size > MAX_DIFF:
            return f"{name} ({'a link' if path.is_symlink() else f'larger than {MAX_DIFF // 2**20} MiB'})"
        content = path.read_bytes()
        executable = os.access(path, os.X_OK)
    except OSError as error:
        return f"{name} ({error.strerror or error})"
    if b"\0" in content:
        return f"{name} (binary)"
    lines = content.split(b"\n")
    ending = b"" if lines[-1] == b"" else b"\n\\ No newline at end of file\n"
    lines = lines[:-1] if lines[-1] == b"" else lines
    head = f"diff --git a/{name} b/{name}\nnew file mode {'100755' if executable else '100644'}\n".encode()
    if not lines:
        return head
    body = b"\n".join(b"+" + line for line in lines) + (ending or b"\n")
    return head + f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n".encode() + body


def _section(source: Source) -> bytes:
    """The difference of one checkout, under lines that ``git apply`` passes over."""
    head = [f"# {source.root.name} at commit {source.commit}"]
    head += [f"# left out: {line}" for line in source.left_out]
    return "\n".join(head).encode("utf-8", "backslashreplace") + b"\n" + source.diff


def _git(folder: Path, *arguments: str, timeout_s: float = _GIT_TIMEOUT_S) -> bytes | None:
    # Inside a git hook, these variables would name another repository than the one of the folder.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@functools.cache
def package_versions() -> Mapping[str, str]:
    """Installed versions of the packages that can change a number, by name."""
    return dict(_versions())


def _versions() -> Iterator[tuple[str, str]]:
    for name in RECORDED_PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
