"""The command plugins: what is registered, by whom, and what became of each plugin."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from typing import Any

from odeframe import plugins
from odeframe.discovery import normalise
from odeframe.errors import InvalidOption, UnknownComponent, suggestion
from odeframe.hookspecs import KINDS
from odeframe.plugins import PluginStatus
from odeframe.registry import components, describe, spelling

__all__ = ["run_plugins"]

HELP = """\
odeframe plugins: what is registered, and what became of each plugin.

  odeframe plugins list [--json]      packages, and the names they provide
  odeframe plugins show PACKAGE       one package: its parts, or why it is not in use
  odeframe plugins show KIND NAME     one part: its options, traits, needs and source

Kinds: {kinds}
"""

WIDTH = 110


def run_plugins(arguments: list[str]) -> int:
    """Runs ``plugins list`` or ``plugins show`` and returns the exit status.

    Raises:
        InvalidOption: an argument is unknown.
        UnknownComponent, PluginConflict: as ``odeframe.describe``.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP.format(kinds=", ".join(KINDS)), end="")
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in ("list", "show"):
        raise InvalidOption(f"plugins: there is no {verb!r}.{suggestion(verb, ('list', 'show'))} Write list or show.")
    as_json = "--json" in rest
    rest = [each for each in rest if each != "--json"]
    wrong = [each for each in rest if each.startswith("-")] or (rest if verb == "list" else rest[2:])
    if wrong or (verb == "show" and not rest):
        usage = "list [--json]" if verb == "list" else "show PACKAGE, or show KIND NAME"
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
    }


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
