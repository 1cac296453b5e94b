"""One run again: the experiment file that gives it, and what is no longer as it was then. Pure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.experiment.writing import written
from orchestrator.provenance import Source
from trainers.config import IDENTITY_SECTIONS

_MAX_NAME = 80
_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Recorded:
    """What is known of a run.

    Attributes:
        spec: its ``spec.json``.
        dataset: its ``dataset.json``; None where it was not kept or the run never read its data.
        source_diff: how its source differed from the commit; empty if it did not, or was not kept.
        place: where all this was found, for people.
        resources: what it asked of its backend, where that is known.
    """

    spec: Mapping[str, Any]
    dataset: Mapping[str, Any] | None
    source_diff: bytes
    place: str
    resources: Mapping[str, Any] | None = None

    @property
    def run_id(self) -> str:
        return str(self.spec["run_id"])

    @property
    def provenance(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.spec.get("provenance") or {}
        return found

    @property
    def experiment(self) -> str:
        """Name of the experiment that the run came from."""
        return str((self.provenance.get("experiment") or {}).get("name") or "run")

    @property
    def name(self) -> str:
        """Of the experiment that gives the run again."""
        return f"{self.experiment[:_MAX_NAME]}-{self.run_id}"


@dataclass(frozen=True)
class Compared:
    """One thing that a run's numbers depend on, then and now.

    Attributes:
        is_same: None where it cannot be told.
    """

    what: str
    then: str
    now: str
    is_same: bool | None


def experiment_text(recorded: Recorded, diff_name: str | None) -> str:
    """An experiment file with one run and nothing left to defaults.

    Args:
        diff_name: the file with the changes that were not committed, if it is written beside this one.
    """
    head = "".join(f"# {line}\n" for line in _head(recorded, diff_name))
    settings = {"name": recorded.name, "base": _names_first(recorded.spec["config"])}
    report = {"report": {"rows": "method", "columns": "data.profile", "over": "seed"}}
    return head + written(settings | report)


def _names_first(value: Any) -> Any:
    """A component's name before its options, as people write it."""
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: key != "name")
        return {key: _names_first(value[key]) for key in keys}
    return [_names_first(item) for item in value] if isinstance(value, list) else value


def _head(recorded: Recorded, diff_name: str | None) -> Iterator[str]:
    provenance = recorded.provenance
    yield f"Run {recorded.run_id} of experiment {recorded.experiment} again, with nothing left to defaults."
    yield f"Written by `sweep reproduce` from {recorded.place}."
    moment = provenance.get("time")
    if moment:
        yield f"It was submitted {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(moment))}."
    git = provenance.get("git") or {}
    if git.get("commit"):
        changes = f" and the changes in {diff_name}" if diff_name else " and changes that were not kept"
        yield f"Its source: commit {git['commit']}{changes if git.get('dirty') else ''}."
    theirs = provenance.get("experiment_git") or {}
    if theirs.get("commit"):
        yield f"Its experiment file: commit {theirs['commit']} of its own repository."
    if recorded.resources is None:
        yield "What it asked of its backend is not recorded; `resources` and `backend` are yours to add."
    else:
        yield f"It had `resources: {json.dumps(recorded.resources)}`, which change none of its numbers beyond rounding."


def not_the_same_run(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of the identity of a run differs between two configurations, one sentence for each setting."""
    before, after = ({name: config.get(name) for name in IDENTITY_SECTIONS} for config in (then, now))
    leaves = (dict(_leaves(before)), dict(_leaves(after)))
    return [
        f"{key} was {_said(leaves[0], key)} and is {_said(leaves[1], key)}"
        for key in sorted({**leaves[0], **leaves[1]})
        if leaves[0].get(key, ...) != leaves[1].get(key, ...)
    ]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _said(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key]) if key in leaves else "not there"


def compare_source(provenance: Mapping[str, Any], now: Source | None) -> list[Compared]:
    """Commit, and what was not committed, of this program's own source."""
    then = provenance.get("git")
    if then is None and now is None:
        return []  # both are installed packages, and their version tells them apart
    if then is None or now is None:
        none = "no checkout"
        commit = (then["commit"] if then else none, now.commit if now else none)
        return [Compared("commit", _short(commit[0]), _short(commit[1]), False)]
    present = now.to_json()
    left_out = bool(then.get("left_out") or present.get("left_out"))
    same_diff = then.get("diff_sha256") == present["diff_sha256"] and then.get("dirty") == present["dirty"]
    return [
        Compared("commit", _short(then["commit"]), _short(now.commit), then["commit"] == now.commit),
        Compared("not committed", _changes(then), _changes(present), same_diff and (None if left_out else True)),
    ]


def _changes(git: Mapping[str, Any]) -> str:
    if not git.get("dirty"):
        return "nothing"
    digest = git.get("diff_sha256")
    left_out = f", {len(git['left_out'])} files left out" if git.get("left_out") else ""
    return (f"changes {_short(digest)}" if digest else "changes, not recorded") + left_out


def compare_packages(provenance: Mapping[str, Any], python: str, packages: Mapping[str, str]) -> list[Compared]:
    """Versions of Python and of what can change a number."""
    then: Mapping[str, str] = provenance.get("packages") or {}
    before = {"python": provenance.get("python") or "not recorded", **then}
    after = {"python": python, **packages}
    return [
        Compared(name, before.get(name, "none"), after.get(name, "none"), before.get(name) == after.get(name))
        for name in dict.fromkeys([*before, *after])
    ]


def compare_data(recorded: Recorded, now: str | None, problem: str) -> Compared:
    """The images that the run trained on.

    Args:
        now: the digest of what the same settings select here; None if that cannot be told.
        problem: why not; with a digest it is empty.
    """
    what = f"images of {recorded.spec['config']['data']['name']}"
    then = None if recorded.dataset is None else str(recorded.dataset["digest"])
    shown = "not recorded" if then is None else _short(then)
    if now is None:
        return Compared(what, shown, problem, None)
    return Compared(what, shown, _short(now), None if then is None else then == now)


def _short(digest: str) -> str:
    is_digest = len(digest) > _SHOWN_DIGITS and all(digit in "0123456789abcdef" for digit in digest)
    return digest[:_SHOWN_DIGITS] if is_digest else digest
