"""The README's promises that a machine can check."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def fenced_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_first_two_blocks_are_one_command_each_and_ci_runs_the_second() -> None:
    quickstart, test = fenced_blocks((ROOT / "README.md").read_text())[:2]
    assert quickstart.strip() == "bash dev.sh quickstart"
    assert test.strip() == "bash dev.sh test"
    assert test.strip() in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_link_in_the_documents_leads_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (document.parent / target).exists(), f"{document.relative_to(ROOT)} links to {target}"


def test_the_lock_file_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    requirements = [line for line in text.splitlines() if "==" in line]
    assert requirements
    assert all(line.endswith("\\") for line in requirements), "each requirement is followed by its hashes"
