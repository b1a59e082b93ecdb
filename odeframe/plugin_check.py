"""The conformance kit run on registered parts, each in the words of its package, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odeframe.component import Component, spelling
from odeframe.errors import UnknownComponent

__all__ = ["Checked", "check_words", "word_of"]

SECONDS = 900
"""How long the checks of one call may take altogether."""

MODULE = """\
from odeframe.testing.installed import classes

globals().update(classes({words!r}))
"""


MEANINGS = {
    "does not require grad": "a value was detached (.detach(), .data, torch.no_grad()) or read as a number (.item())",
    "must have the same dtype": "times are float64, and what is computed from them too: write .to(x) before it meets x",
    "modified by an inplace operation": "the backward pass needs a value that was overwritten: write new ones",
    "backward through the graph a second time": "a tensor of one batch is kept for the next: detach what is kept",
    "'NoneType' object has no attribute": "a method gave nothing: does it end with a return?",
    "positional argument": "a method's arguments are not those of its interface: compare it with the interface's own",
}
"""What an error that is raised within a part most likely comes from, by what its message holds."""


@dataclass
class Checked:
    """What became of the checks of one part.

    Attributes:
        part: kind and name.
        passed: how many checks were made and passed.
        failures: each check that failed, with what is most likely wrong.
    """

    part: str
    passed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        failures = [{"check": check, "hint": hint} for check, hint in self.failures]
        return {"part": self.part, "passed": self.passed, "failed": len(self.failures), "failures": failures}


def word_of(component: Component, options: Mapping[str, Any] | None = None) -> tuple[str, Any]:
    """Kind and word of a registered part, with options over those that its table gives as an example."""
    name, chosen = spelling(component), {**component.part.example, **(options or {})}
    return component.kind, {"name": name, **chosen} if chosen else name


def check_words(words: Sequence[tuple[str, Any]]) -> list[Checked]:
    """Runs the conformance class of each word's kind by pytest, in a process of its own.

    Args:
        words: kind and choice, a name or a mapping with a name and options.

    Returns:
        what became of each, in the order of the words; a part of which no check was made has a failure that says why.

    Raises:
        UnknownComponent: pytest is not installed.
    """
    if importlib.util.find_spec("pytest") is None:
        raise UnknownComponent("plugins check runs its checks by pytest, which is not installed: pip install pytest")
    found = {f"Test{index}": Checked(_text(*word)) for index, word in enumerate(words)}
    with tempfile.TemporaryDirectory(prefix="odeframe-check-") as folder:
        said = _run(Path(folder), words)
        report = Path(folder) / "report.xml"
        cases = ET.parse(report).getroot().iter("testcase") if report.is_file() else []
        for case in cases:
            _note(found, case)
    for each in found.values():
        if not each.passed and not each.failures:
            each.failures.append(("no check was made", said))
    return list(found.values())


def _text(kind: str, choice: Any) -> str:
    if not isinstance(choice, Mapping):
        return f"{kind} {choice}"
    options = ", ".join(f"{key}={value}" for key, value in choice.items() if key != "name")
    return f"{kind} {choice.get('name')}" + (f" ({options})" if options else "")


def _run(folder: Path, words: Sequence[tuple[str, Any]]) -> str:
    """Runs pytest on a module that makes the classes; returns how it ended, for parts without a result."""
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    (folder / "test_installed.py").write_text(MODULE.format(words=list(words)), "utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--import-mode=importlib", "--junitxml=report.xml"]
    command = [sys.executable, "-m", "pytest", *options, "test_installed.py"]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # checks of trainers fork
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **one_thread, "PYTEST_ADDOPTS": "", "MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the checks did not end within {SECONDS} s"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("E  ")] or ["no word"]
    return f"the process of the checks ended with status {done.returncode}: {lines[-1].removeprefix('E').strip()}"


def _note(found: Mapping[str, Checked], case: ET.Element) -> None:
    """One test case of pytest's report."""
    mine = found.get(case.get("classname", "").rpartition(".")[2])
    if mine is None:
        return
    faults = [child for child in case if child.tag in ("failure", "error")]
    if faults:
        mine.failures.append((case.get("name", ""), _hint(faults[0])))
    elif case.find("skipped") is None:
        mine.passed += 1


def _hint(fault: ET.Element) -> str:
    """What the check says, without pytest's own words."""
    message = fault.get("message", "").partition("\nassert ")[0]
    for own in ("AssertionError: ", "Failed: "):
        message = message.removeprefix(own)
    meanings = [meaning for words, meaning in MEANINGS.items() if words in message]
    return ": ".join([" ".join(message.split()) or "no word", *meanings[:1]])
