"""Loading plugins: each package's entry module is held against the contract, and its tables are read.

A loader of our own over importlib.metadata and pluggy, since one broken plugin must not break the others and
two packages may give their entry points the same name. What is wrong with a plugin quarantines that plugin
alone, with the reason; ``ODEFRAME_STRICT_PLUGINS=1`` makes an error of it.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pluggy

from odeframe import hookspecs
from odeframe.discovery import GROUP, OURS, Entry, installed, normalise, shut_out, strict
from odeframe.errors import InvalidOption, OdeframeError, PluginConflict, suggestion
from odeframe.hookspecs import API, COMPONENT, HOOKS, Need, Part

__all__ = ["PluginStatus", "loaded", "reload", "status"]

Tables = Mapping[str, Mapping[str, Part]]


@dataclass(frozen=True)
class PluginStatus:
    """What became of one package that offers plugins.

    Attributes:
        package: the distribution's name, normalised.
        version: of the distribution.
        status: "ok", "quarantined" or "blocked".
        reason: why it is not ok.
        parts: kind to name to part, where it is ok.
        notes: names of its that are reached only as "package/name".
    """

    package: str
    version: str
    status: str
    reason: str = ""
    parts: Tables = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many parts of each kind there are."""
        return {kind: len(table) for kind, table in self.parts.items()}


class _QuarantineError(Exception):
    """Why a plugin is quarantined."""


_lock = threading.RLock()
_loading = False
_loaded: tuple[PluginStatus, ...] | None = None


def loaded() -> tuple[PluginStatus, ...]:
    """Every plugin and what became of it, sorted by package; loaded on the first call.

    Raises:
        OdeframeError: in strict mode, when a plugin is quarantined; or when a plugin asks for it while it is
            loaded.
        PluginConflict: in strict mode, when two plugins provide one name.
    """
    with _lock:
        return reload() if _loaded is None else _loaded


def status() -> list[PluginStatus]:
    """Every plugin and what became of it, sorted by package. Raises what ``loaded`` raises."""
    return list(loaded())


def reload(entries: Iterable[Entry] | None = None) -> tuple[PluginStatus, ...]:
    """Load the plugins again.

    Args:
        entries: entry points to load in place of the installed ones.

    Returns:
        what ``loaded`` returns from now on.

    Raises:
        OdeframeError, PluginConflict: as ``loaded``.
    """
    global _loading, _loaded
    with _lock:
        if _loading:
            raise OdeframeError("the plugins are being loaded: an entry module cannot ask for components")
        _loading, _loaded = True, None
        try:
            _loaded = _load(installed() if entries is None else list(entries))
        finally:
            _loading = False
        return _loaded


def _load(entries: list[Entry]) -> tuple[PluginStatus, ...]:
    packages: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        packages.setdefault(normalise(entry.dist.name or ""), {}).setdefault(entry.value, entry)
    reasons, errors_wanted, found = shut_out(packages), strict(), []
    for package, mine in sorted(packages.items()):
        version = str(next(iter(mine.values())).dist.version)
        if package in reasons:
            found.append(PluginStatus(package, version, "blocked", reasons[package]))
            continue
        try:
            found.append(PluginStatus(package, version, "ok", parts=_tables(package, list(mine.values()))))
        except _QuarantineError as fault:
            if errors_wanted:
                message = f"plugin {package} {version}: {fault} (ODEFRAME_STRICT_PLUGINS is set)"
                raise OdeframeError(message) from fault.__cause__
            found.append(PluginStatus(package, version, "quarantined", str(fault)))
    return _with_notes(found, errors_wanted)


def _tables(package: str, entries: list[Entry]) -> Tables:
    """The parts of one package; raises _QuarantineError where anything is wrong with it."""
    if len(entries) > 1:
        values = ", ".join(entry.value for entry in entries)
        raise _QuarantineError(
            f"it has {len(entries)} entry points in the group {GROUP!r} ({values}); a package has one"
        )
    [entry] = entries
    try:
        module = entry.load()
    except (Exception, SystemExit) as error:
        raise _QuarantineError(f"{entry.value} does not import: {_one_line(error)}") from error
    if not isinstance(module, types.ModuleType):
        raise _QuarantineError(f"its entry point {entry.value} is a {type(module).__name__}, expected a module")
    version = vars(module).get("ODEFRAME_API", API)  # not getattr: a module may have a __getattr__ of its own
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _QuarantineError(f"got ODEFRAME_API = {version!r}, expected a whole number up to {API}")
    if version > API:
        raise _QuarantineError(
            f"it is too new: made for ODEFRAME_API {version}, this odeframe has {API}; upgrade odeframe"
        )
    parts: dict[str, dict[str, Part]] = {}
    for hook in _hooks(package, module):
        kind = next(kind for kind, name in HOOKS.items() if name == hook.name)
        for implementation in hook.get_hookimpls():
            table = _table(kind, hook.name, implementation)
            twice = sorted(table.keys() & parts.get(kind, {}).keys())
            if twice:
                raise _QuarantineError(f"it provides the {kind} {twice[0]!r} twice")
            parts.setdefault(kind, {}).update(table)
    return parts


def _hooks(package: str, module: types.ModuleType) -> list[Any]:
    """The hooks that a module implements, each held against its specification."""
    manager = pluggy.PluginManager("odeframe")  # one a plugin: what is wrong with it stays with it
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, name=package)
    except pluggy.PluginValidationError as error:
        raise _QuarantineError(
            f"a hook has a wrong signature, expected one without arguments: {_one_line(error)}"
        ) from error
    hooks = sorted(manager.get_hookcallers(module) or [], key=lambda hook: hook.name)
    for hook in hooks:
        if not hook.has_spec():
            near = suggestion(hook.name, HOOKS.values())
            raise _QuarantineError(f"there is no hook {hook.name!r}.{near} The hooks are {', '.join(HOOKS.values())}")
        if any(implementation.wrapper or implementation.hookwrapper for implementation in hook.get_hookimpls()):
            raise _QuarantineError(f"{hook.name} is a wrapper, expected a function that returns a table")
    implemented = {implementation.function for hook in hooks for implementation in hook.get_hookimpls()}
    for name in HOOKS.values():
        function = vars(module).get(name)
        if isinstance(function, types.FunctionType) and function not in implemented:
            raise _QuarantineError(f"{name} is not marked: write @odeframe.hookimpl above it")
    if not hooks:
        raise _QuarantineError(
            f"{module.__name__} defines no hook: mark one, as {HOOKS['solver']}, with @odeframe.hookimpl"
        )
    return hooks


def _table(kind: str, hook: str, implementation: Any) -> dict[str, Part]:
    # Called directly: pluggy drops a result of None, which is how a forgotten return looks.
    try:
        table = implementation.function()
        items = list(table.items()) if isinstance(table, Mapping) else None
    except (Exception, SystemExit) as error:
        raise _QuarantineError(f"{hook} raised {_one_line(error)}") from error
    if items is None:
        raise _QuarantineError(f"{hook} returned {table!r}, expected a mapping from names to parts")
    parts = {}
    for name, value in items:
        if not isinstance(name, str) or not COMPONENT.fullmatch(name):
            raise _QuarantineError(
                f"{hook} has the name {name!r}, expected a lower-case letter, then lower-case letters, digits and _"
            )
        try:
            parts[name] = value if isinstance(value, Part) else Part(value)
        except InvalidOption as error:
            raise _QuarantineError(f"{hook}, {name!r}: {error}") from error
        added = (need for clause in parts[name].when.values() for need in clause.get("needs", ()))
        if any(Need.parse(need).kind == kind for need in (*parts[name].needs, *added)):
            raise _QuarantineError(f"{hook}, {name!r}: a {kind} has a need of its own kind, expected one of another")
    return parts


def _with_notes(found: list[PluginStatus], errors_wanted: bool) -> tuple[PluginStatus, ...]:
    """Each status with the names that it shares with others."""
    providers: dict[tuple[str, str], list[str]] = {}
    for plugin in found:
        for kind, table in plugin.parts.items():
            for name in table:
                providers.setdefault((kind, name), []).append(plugin.package)
    notes: dict[str, list[str]] = {}
    for (kind, name), packages in sorted(providers.items()):
        if len(packages) > 1 and OURS not in packages and errors_wanted:
            spellings = ", ".join(f"{package}/{name}" for package in packages)
            raise PluginConflict(f"{kind} {name!r} has several providers: {spellings} (ODEFRAME_STRICT_PLUGINS is set)")
        for package in packages if len(packages) > 1 else ():
            if package != OURS:
                others = ", ".join(other for other in packages if other != package)
                text = f"{kind} {package}/{name} is reached by that spelling only: {others} has the name too"
                notes.setdefault(package, []).append(text)
    return tuple(replace(plugin, notes=tuple(notes.get(plugin.package, ()))) for plugin in found)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
