"""Which installed packages offer plugins, and which of them the environment lets in."""

from __future__ import annotations

import importlib.metadata
import os
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from odeframe.errors import InvalidOption, suggestion

__all__ = ["GROUP", "OURS", "Entry", "installed", "normalise", "shut_out", "strict"]

GROUP = "odeframe"
"""The entry-point group of plugins."""

OURS = "odeframe"
"""The distribution whose names come before anyone's."""


class Entry(Protocol):
    """What is used of an importlib.metadata.EntryPoint; ``dist`` has ``name`` and ``version``."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def dist(self) -> Any: ...
    def load(self) -> Any: ...


@dataclass(frozen=True)
class _Unreadable:
    """An entry point whose file cannot be parsed: to load it says so."""

    dist: Any
    error: Exception
    name: str = GROUP
    value: str = "entry_points.txt"

    def load(self) -> Any:
        raise self.error


def normalise(name: str) -> str:
    """A distribution's name as PEP 503 compares it: lower case, runs of ``-_.`` as one hyphen."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def installed() -> list[Entry]:
    """The entry points of all installed packages in the group ``odeframe``.

    One distribution may be listed twice (an egg-info in the working directory beside a dist-info, or two
    places on the path): the first that has such entry points counts, as it does for imports.
    """
    entries: dict[str, list[Entry]] = {}
    for distribution in importlib.metadata.distributions():
        # Only a file that names the group is parsed: another's malformed file is none of our business.
        if f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or ""):
            try:
                mine: list[Entry] = [entry for entry in distribution.entry_points if entry.group == GROUP]
            except Exception as error:
                mine = [_Unreadable(distribution, error)]
            entries.setdefault(normalise(distribution.name or ""), mine)
    return [entry for mine in entries.values() for entry in mine]


def shut_out(packages: Collection[str]) -> dict[str, str]:
    """The packages that ``ODEFRAME_BLOCK_PLUGINS`` and ``ODEFRAME_PLUGINS`` leave out, each with the reason.

    Both are comma-separated lists of distributions; the second, where it is not empty, lets in only what it
    names and ours. Warns of a name that is no installed plugin, since it has no effect.

    Args:
        packages: normalised names of the packages that offer plugins.
    """
    blocked, allowed = _listed("ODEFRAME_BLOCK_PLUGINS", packages), _listed("ODEFRAME_PLUGINS", packages)
    reasons = {}
    if allowed:
        reasons = dict.fromkeys(set(packages) - allowed - {OURS}, "not named in ODEFRAME_PLUGINS")
    return reasons | dict.fromkeys(blocked & set(packages), "named in ODEFRAME_BLOCK_PLUGINS")


def strict() -> bool:
    """Whether ``ODEFRAME_STRICT_PLUGINS`` makes errors of what is otherwise reported.

    Raises:
        InvalidOption: its value is neither 1 nor 0.
    """
    value = os.environ.get("ODEFRAME_STRICT_PLUGINS", "").strip().lower()
    if value not in ("", "0", "1", "false", "true"):
        raise InvalidOption(f"got ODEFRAME_STRICT_PLUGINS={value}, expected 1 or 0")
    return value in ("1", "true")


def _listed(variable: str, packages: Collection[str]) -> set[str]:
    names = {normalise(name) for name in os.environ.get(variable, "").split(",") if name.strip()}
    for name in sorted(names - set(packages)):
        near = suggestion(name, packages)
        warnings.warn(f"{variable} names {name}, which is no installed plugin.{near}", stacklevel=2)
    return names
