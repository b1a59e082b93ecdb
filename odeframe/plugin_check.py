"""The conformance kit run on registered parts, each in the words of its package, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odeframe.component import Component, spelling
from odeframe.errors import UnknownComponent

__all__ = ["Checked", "check_words", "word_of"]

SECONDS = 300
"""How long a single check may take; the checks before it keep their results, and those after it are made anew."""

MODULE = """\
import json
from pathlib import Path

from odeframe.testing.installed import classes, remarks

made = classes({words!r})
Path("remarks.json").write_text(json.dumps(remarks(made)), "utf-8")
globals().update(made)
"""

TELLING = ("test_step_maps_compose", "test_exact_on_polynomials", "test_order")
"""Beginnings of the checks that say most of where a fault lies: of several that fail they are shown first."""

ENDED = (0, 1)  # pytest's status where all passed, or some failed

REPORTER = """\
import json
from pathlib import Path


def write(nodeid, outcome, message):
    where, name = nodeid.split("::", 2)[1:] if nodeid.count("::") > 1 else ("", nodeid)
    with Path("reports.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps([where, name, outcome, message]) + "\\n")


def pytest_runtest_logstart(nodeid, location):
    write(nodeid, "begun", "")


def pytest_runtest_logreport(report):
    if report.skipped:
        write(report.nodeid, "skipped", str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""))
    elif report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        write(report.nodeid, "failed", crash.message if crash else str(report.longrepr))
    elif report.when == "call":
        write(report.nodeid, "passed", "")
"""
"""Writes what becomes of each check as soon as it is known, so that a process that dies or hangs loses none."""


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
        remarks: what must be known of how it was checked: settings of its own, checks that were not made and why.
    """

    part: str
    passed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        failures = [{"check": check, "hint": hint} for check, hint in self.failures]
        found = {"part": self.part, "passed": self.passed, "failed": len(self.failures), "failures": failures}
        return {**found, "remarks": self.remarks} if self.remarks else found


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
    found = [Checked(_text(*word)) for word in words]
    first = 0
    while first < len(words):
        with tempfile.TemporaryDirectory(prefix="odeframe-check-") as folder:
            said, whole = _run(Path(folder), words[first:])
            last = _collect(found[first:], Path(folder))
        end = len(words) if whole or last is None else first + last[0] + 1
        if last is not None and not whole:  # the check that it was at has failed; the parts after it are begun anew
            found[end - 1].failures.append((last[1], said))
        for each in found[first:end]:
            if not each.passed and not each.failures:
                each.failures.append(("no check was made", said))
        first = end
    for each in found:
        each.failures.sort(key=lambda failure: not failure[0].startswith(TELLING))
    return found


def _collect(parts: Sequence[Checked], folder: Path) -> tuple[int, str] | None:
    """Notes the results of a process; returns which part it was at last, and with which check."""
    report, told = folder / "reports.jsonl", folder / "remarks.json"
    last: tuple[int, str] | None = None
    places = {f"Test{place}": place for place in range(len(parts))}
    for line in report.read_text("utf-8").splitlines() if report.is_file() else []:
        where, name, outcome, message = json.loads(line)
        if where in places:
            last = places[where], name
            _note(parts[last[0]], name, outcome, message)
    for where, remarks in (json.loads(told.read_text("utf-8")) if told.is_file() else {}).items():
        if last is not None and places[where] <= last[0]:
            parts[places[where]].remarks[:0] = remarks
    return last


def _text(kind: str, choice: Any) -> str:
    if not isinstance(choice, Mapping):
        return f"{kind} {choice}"
    options = ", ".join(f"{key}={value}" for key, value in choice.items() if key != "name")
    return f"{kind} {choice.get('name')}" + (f" ({options})" if options else "")


def _run(folder: Path, words: Sequence[tuple[str, Any]]) -> tuple[str, bool]:
    """Runs pytest on a module that makes the classes; returns how it ended, and whether it came to its end."""
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    (folder / "conftest.py").write_text(REPORTER, "utf-8")
    (folder / "test_installed.py").write_text(MODULE.format(words=list(words)), "utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", "-W", "ignore"]
    command = [sys.executable, "-m", "pytest", *options, "--import-mode=importlib", "test_installed.py"]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # checks of trainers fork
    environment = {**os.environ, **one_thread, "PYTEST_ADDOPTS": "", "MPLBACKEND": "Agg"}
    with (folder / "said.txt").open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            late = _wait(process, folder / "reports.jsonl")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has forked
                process.wait()
    if late:
        return f"it did not end within {SECONDS} s", False
    said = (folder / "said.txt").read_text("utf-8", "replace")
    lines = [line for line in said.splitlines() if line.startswith("E  ")] or ["no word"]
    text = f"the process of the checks ended with status {process.returncode}: {lines[-1].removeprefix('E').strip()}"
    return text, process.returncode in ENDED


def _wait(process: subprocess.Popen[bytes], report: Path) -> bool:
    """Waits for the end of a process; true where nothing was reported for ``SECONDS``."""
    size, since = -1, time.monotonic()
    while True:
        try:
            process.wait(1.0)
            return False
        except subprocess.TimeoutExpired:
            now = report.stat().st_size if report.is_file() else 0
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > SECONDS:
                return True


def _note(mine: Checked, name: str, outcome: str, message: str) -> None:
    """One report."""
    if outcome == "passed":
        mine.passed += 1
    elif outcome == "failed":
        mine.failures.append((name, _hint(message)))
    elif outcome == "skipped":
        mine.remarks.append(f"{name} was skipped: {message or 'no word'}")


def _hint(message: str) -> str:
    """What the check says, without pytest's own words."""
    message = message.partition("\nassert ")[0]
    for own in ("AssertionError: ", "Failed: "):
        message = message.removeprefix(own)
    meanings = [meaning for words, meaning in MEANINGS.items() if words in message]
    return ": ".join([" ".join(message.split()) or "no word", *meanings[:1]])
