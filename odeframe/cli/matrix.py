"""The command matrix: how many combinations there are, why two parts do not go together, and trials of many."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from odeframe.cli.sources import read_text
from odeframe.errors import InvalidOption
from odeframe.hookspecs import KINDS, check_kind
from odeframe.matrix import Matrix, reasons
from odeframe.registry import word

__all__ = ["run_matrix"]

HELP = """\
odeframe matrix: which parts go together.

  odeframe matrix                       how many parts, pairs and whole combinations of one part a kind
  odeframe matrix KIND=NAME KIND=NAME   whether these go together, and why not
  odeframe matrix KIND=NAME             how many combinations there are with it
  odeframe matrix --try N [--seed S]    builds N random legal combinations and trains each for two steps on small data
  odeframe matrix --pairs [--seed S]    the same for so few that every legal pair of parts occurs in one

  --json                prints plain data
  --seed S              of the draws; by default a new one, which is printed

A part with options: solver='{{name: dopri5, per_sample: true}}'. Exit status 1 where a trial fails.
Kinds: {kinds}
"""


@dataclass
class _Asked:
    chosen: dict[str, Any] = field(default_factory=dict)
    number: int | None = None
    pairs: bool = False
    seed: int | None = None
    as_json: bool = False


def run_matrix(arguments: Sequence[str]) -> int:
    """Runs the command and returns the exit status.

    Raises:
        InvalidOption: an argument is unknown.
        UnknownComponent, PluginConflict: a name is unknown, or has several providers.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP.format(kinds=", ".join(KINDS)), end="")
        return 0
    asked = _read(list(arguments))
    if asked.number is not None or asked.pairs:
        return _try(asked)
    found = _answer(asked.chosen)
    print(json.dumps(found, indent=2) if asked.as_json else "\n".join(_lines(found)))
    return 0


def _read(rest: list[str]) -> _Asked:
    asked = _Asked()
    while rest:
        token = rest.pop(0)
        name, equals, text = token.partition("=")
        if name in ("--try", "--seed"):
            text = text if equals else rest.pop(0) if rest else ""
            if not text.isdecimal():
                raise InvalidOption(f"matrix: {name} got {text!r}, expected a whole number")
            if name == "--try":
                asked.number = int(text)
            else:
                asked.seed = int(text)
        elif token == "--pairs":
            asked.pairs = True
        elif token == "--json":
            asked.as_json = True
        elif equals and not token.startswith("-") and text:
            if check_kind(name) in asked.chosen:
                raise InvalidOption(f"matrix: got two of kind {name}; two parts of one kind never meet")
            asked.chosen[name] = read_text(text, f"matrix {name}")
        else:
            raise InvalidOption(f"matrix: got {token!r}, expected KIND=NAME, --try N, --pairs, --seed S or --json")
    return asked


def _answer(chosen: dict[str, Any]) -> dict[str, Any]:
    """What is known of the parts that are chosen, as plain data."""
    for kind, value in chosen.items():
        if isinstance(value, dict) and len(value) > 1:
            word(kind, value).check()
    against = reasons(chosen)
    if against:
        return {"chosen": chosen, "reasons": against, "combinations": 0}
    matrix = Matrix(chosen)
    found: dict[str, Any] = {"chosen": chosen, "reasons": [], "combinations": matrix.count()}
    if not chosen:
        sizes = {kind: len(matrix.parts[kind]) for kind in KINDS}
        possible = 1
        for size in sizes.values():
            possible *= size
        pairs = {}
        for a, b in combinations(KINDS, 2):
            legal, whole = (sum(row.bit_count() for row in table[a, b]) for table in (matrix.table, matrix.pairs))
            pairs[f"{a}, {b}"] = {"all": sizes[a] * sizes[b], "legal": legal, "in a combination": whole}
        found |= {"parts": sizes, "pairs": pairs, "possible": possible, "absent": matrix.absent}
    elif not found["combinations"]:
        found["reasons"] = ["No part of some other kind fits all of them: no whole combination has these."]
    return found


def _lines(found: dict[str, Any]) -> Iterator[str]:
    if found["chosen"]:
        said = ", ".join(f"{kind} {value}" for kind, value in found["chosen"].items())
        if found["reasons"]:
            yield f"{said}: no"
            yield from (f"  {reason}" for reason in found["reasons"])
        else:
            yield f"{said}: yes, in {found['combinations']:,} combinations"
        return
    yield "parts: " + ", ".join(f"{count} {kind}" for kind, count in found["parts"].items())
    yield ""
    yield f"{'pairs of':<26}{'all':>7}{'legal':>8}{'in a combination':>18}"
    for name, counts in found["pairs"].items():
        yield f"{name:<26}{counts['all']:>7,}{counts['legal']:>8,}{counts['in a combination']:>18,}"
    totals = [sum(counts[key] for counts in found["pairs"].values()) for key in ("all", "legal", "in a combination")]
    yield f"{'together':<26}{totals[0]:>7,}{totals[1]:>8,}{totals[2]:>18,}"
    yield ""
    yield f"whole combinations: {found['combinations']:,} legal of {found['possible']:,}"
    yield from (f"left out, {part}: {reason}" for part, reason in found["absent"].items())


def _try(asked: _Asked) -> int:
    """Trials, with a line for each that fails, and what was left out."""
    if asked.chosen or asked.as_json or (asked.pairs and asked.number is not None):
        raise InvalidOption("matrix: --try N or --pairs stand alone, with --seed at most")
    from odeframe.cli.console import quiet_lightning
    from odeframe.covering import covering, draw
    from odeframe.trial import Trial, buildable, one_line

    seed = random.SystemRandom().randrange(2**31) if asked.seed is None else asked.seed
    matrix, left_out = buildable()
    tried = covering(matrix, seed) if asked.pairs else list(draw(matrix, asked.number or 0, seed))
    for part, reason in left_out.items():
        print(f"left out, {part}: {reason}", flush=True)
    print(f"{len(tried)} combinations, seed {seed}", flush=True)
    trial, failed, again = Trial(seed), 0, 0
    for index, indices in enumerate(tried, start=1):
        words = matrix.words(indices)
        try:
            with quiet_lightning():
                said = trial.train(words)
            again += bool(said)
            for reason in said:
                print(f"tried again: {one_line(words)}: {reason}", flush=True)
        except Exception as error:
            failed += 1
            print(f"failed: {one_line(words)}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        if index % 10 == 0:
            print(f"{index} of {len(tried)} tried, {failed} failed", flush=True)
    print(f"{len(tried)} combinations tried, {failed} failed, {again} trained with other weights only (seed {seed})")
    return 1 if failed else 0
