"""The command plugins: what is registered, by whom, what became of each plugin; new ones, and their checks."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from odeframe import plugins
from odeframe.discovery import OURS, normalise
from odeframe.errors import InvalidOption, UnknownComponent, suggestion
from odeframe.hookspecs import KINDS, Part
from odeframe.plugins import PluginStatus
from odeframe.registry import components, describe, spelling, word

__all__ = ["run_plugins"]

HELP = """\
odeframe plugins: what is registered, what became of each plugin; new ones, and their checks.

  odeframe plugins list [--json]      packages, and the names they provide
  odeframe plugins show PACKAGE       one package: its parts, or why it is not in use
  odeframe plugins show KIND NAME     one part: its options, traits, needs and source
  odeframe plugins new NAME --kind KIND [--output DIR]
                                      writes a package with a part that works, its tests and its entry point
  odeframe plugins check [PACKAGE | KIND=NAME ...] [--json]
                                      holds parts against what their kind must do: by default those of all
                                      packages but odeframe itself; status 1 where a check fails

Kinds: {kinds}
"""

USAGES = {
    "list": "list [--json]",
    "show": "show PACKAGE, or show KIND NAME",
    "new": "new NAME --kind KIND [--output DIR]",
    "check": "check [PACKAGE | KIND=NAME ...] [--json]",
}
VERBS = tuple(USAGES)

WIDTH = 110


def run_plugins(arguments: list[str]) -> int:
    """Runs ``plugins list``, ``show``, ``new`` or ``check`` and returns the exit status.

    Raises:
        InvalidOption: an argument is unknown, or what ``new`` is to write cannot be.
        UnknownComponent, PluginConflict: as ``odeframe.describe``.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP.format(kinds=", ".join(KINDS)), end="")
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in VERBS:
        raise InvalidOption(f"plugins: there is no {verb!r}.{suggestion(verb, VERBS)} Write {' or '.join(VERBS)}.")
    if verb == "new":
        return _new(rest)
    as_json = "--json" in rest
    rest = [each for each in rest if each != "--json"]
    wrong = [each for each in rest if each.startswith("-")]
    if verb == "check" and not wrong:
        return _check(rest, as_json)
    wrong = wrong or (rest if verb == "list" else rest[2:])
    if wrong or (verb == "show" and not rest):
        usage = USAGES[verb]
        raise InvalidOption(f"plugins {verb}: got {' '.join(wrong) or 'nothing'}, expected {usage}")
    if verb == "list":
        found: Any = [_package(each) for each in plugins.loaded()]
        lines: Iterable[str] = _listing(plugins.loaded())
    elif len(rest) == 1:
        status = _status(rest[0])
        found, lines = _package(status), _listing([status])
    else:
        found = describe(*rest)
        lines = _description(found)
    print(json.dumps(found, indent=2) if as_json else "\n".join(lines))
    return 0


def _new(rest: list[str]) -> int:
    """Writes a package, and says what to do with it."""
    from odeframe.scaffold import new_package

    given: dict[str, str] = {}
    names = []
    while rest:
        name, equals, text = rest.pop(0).partition("=")
        if name in ("--kind", "--output"):
            given[name] = text if equals else rest.pop(0) if rest else ""
        else:
            names.append(name + equals + text)
    wrong = [each for each in names if each.startswith("-")]
    if wrong or len(names) != 1 or not given.get("--kind") or not given.get("--output", "."):
        got = ", ".join(wrong) or " ".join(names) or "nothing"
        raise InvalidOption(f"plugins new: got {got}, expected {USAGES['new']}; KIND is one of {', '.join(KINDS)}")
    output = Path(given["--output"]) if "--output" in given else None
    folder = new_package(names[0], given["--kind"], output)
    print(f"{folder} is written. Next:\n")
    print(f"  pip install --no-build-isolation -e '{folder}[test]'\n  odeframe plugins check {names[0]}\n")
    print(f"{folder}/README.md says the rest.")
    return 0


def _check(rest: list[str], as_json: bool) -> int:
    """Checks packages and parts, and prints a table; 1 where something fails."""
    from odeframe.plugin_check import Checked, check_words, word_of

    packages = [each for each in rest if "=" not in each]
    chosen = [_status(each) for each in packages]
    if not rest:
        chosen = [each for each in plugins.loaded() if each.package != OURS and each.status != "blocked"]
        if not chosen:
            raise InvalidOption(
                "plugins check: no package beside odeframe's own offers plugins here; install one (odeframe plugins "
                "new NAME --kind KIND writes one), or name what to check: odeframe plugins check solver=rk4"
            )
    words = [_part(each) for each in rest if "=" in each]
    mine = {each.package for each in chosen}
    words += [word_of(each) for kind in KINDS for each in components(kind) if each.package in mine]
    found = [Checked(e.package, 0, [(e.status, e.reason)]) for e in chosen if e.status != "ok"]
    found += check_words(words) if words else []
    print(json.dumps([each.to_dict() for each in found], indent=2) if as_json else "\n".join(_verdicts(found)))
    return int(any(each.failures for each in found))


def _part(text: str) -> tuple[str, Any]:
    """Kind and word of ``KIND=NAME``, or of ``KIND={name: NAME, option: value}``."""
    from odeframe.cli.sources import read_text
    from odeframe.plugin_check import word_of

    kind, _, written = text.partition("=")
    chosen = word(kind, read_text(written, text))
    if chosen.component is None:
        raise InvalidOption(f"plugins check: got {text!r}, expected KIND=NAME, or 'KIND={{name: NAME, option: value}}'")
    return word_of(chosen.component, chosen.options)


def _verdicts(found: Iterable[Any]) -> Iterable[str]:
    rows = list(found)
    width = max(len("part"), *(len(each.part) for each in rows))
    yield f"{'part':<{width}}  passed  failed"
    for each in rows:
        yield f"{each.part:<{width}}  {each.passed:>6}  {len(each.failures):>6}"
        if each.failures:
            check, hint = each.failures[0]
            more = f" (and {len(each.failures) - 1} more, see --json)" if len(each.failures) > 1 else ""
            yield textwrap.fill(f"{check}: {hint}{more}", WIDTH, initial_indent="    ", subsequent_indent="    ")
        for remark in each.remarks:
            yield textwrap.fill(f"note: {remark}", WIDTH, initial_indent="    ", subsequent_indent="    ")


def _status(package: str) -> PluginStatus:
    packages = {each.package: each for each in plugins.loaded()}
    if normalise(package) not in packages:
        hint = f" For a {package}, write its name too." if package in KINDS else suggestion(package, packages)
        raise UnknownComponent(f"there is no plugin {package!r}.{hint} Installed: {', '.join(packages)}.")
    return packages[normalise(package)]


def _package(each: PluginStatus) -> dict[str, Any]:
    """A plugin as plain data."""
    return {
        "package": each.package,
        "version": each.version,
        "status": each.status,
        "reason": each.reason,
        "notes": list(each.notes),
        "parts": {kind: sorted(table) for kind, table in sorted(each.parts.items()) if table},
        "traits": {kind: _told(table, "traits") for kind, table in sorted(each.parts.items()) if table},
        "sources": {kind: _told(table, "source") for kind, table in sorted(each.parts.items()) if table},
    }


def _told(table: Mapping[str, Part], name: str) -> dict[str, Any]:
    """What a table says of its parts, by their names."""
    values = {part: getattr(table[part], name) for part in sorted(table)}
    return {part: list(value) if isinstance(value, tuple) else value for part, value in values.items()}


def _listing(packages: Iterable[PluginStatus]) -> Iterable[str]:
    for each in packages:
        yield f"{each.package} {each.version}  {each.status}" + (f": {each.reason}" if each.reason else "")
        for kind in KINDS:
            mine = [component for component in components(kind) if component.package == each.package]
            names = [spelling(part) + (f" ({part.missing})" if part.missing else "") for part in mine]
            if names:
                first = f"  {kind:<13} "
                yield textwrap.fill(", ".join(names), WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
        yield from (f"  note: {note}" for note in each.notes)


def _description(found: dict[str, Any]) -> Iterable[str]:
    yield f"{found['kind']} {found['name']}  ({found['package']} {found['version']})"
    if found["summary"]:
        yield f"  {found['summary']}"
    for name in ("source", "missing"):
        if found[name]:
            yield f"  {name}: {found[name]}"
    yield from (f"  {name}: {text}" for name, text in found["facts"].items())
    for name in ("traits", "needs", "requires"):
        if found[name]:
            yield f"  {name}: {', '.join(found[name])}"
    for condition, added in found["when"].items():
        texts = [f"{key} {', '.join(values)}" for key, values in added.items() if values]
        yield f"  with {condition}: {'; '.join(texts)}"
    yield "  options:" if found["options"] else "  no options"
    for option in found["options"]:
        default = "required" if option["required"] else f"default {option['default']!r}"
        yield f"    {option['name']}: {option['type'] or 'any'}, {default}"
