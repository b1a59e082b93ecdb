"""Names to factories: what is registered, what it is, and how a word becomes an object."""

from __future__ import annotations

import inspect
import numbers
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from odeframe import plugins
from odeframe.component import Component, components, resolve, spelling
from odeframe.errors import CheckpointError, InvalidOption, UnknownComponent
from odeframe.hookspecs import HOOKS, KINDS, Part, check_kind
from odeframe.options import check_options, construct, options_of

__all__ = [
    "HOOKS",
    "KINDS",
    "Component",
    "Part",
    "Word",
    "available",
    "build",
    "check_provenance",
    "components",
    "describe",
    "provenance",
    "registered",
    "resolve",
    "spelling",
    "word",
]


@dataclass(frozen=True)
class Word:
    """What was chosen for a kind: a registered component with options, or an object of the user's own."""

    kind: str
    component: Component | None = None
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    object: Any = None

    def __str__(self) -> str:
        if self.component is not None:
            return f"{self.kind} {spelling(self.component)!r}"
        return f"{self.kind} {_class(self.object).__qualname__} (an object)"

    def check(self) -> None:
        """Hold the options that are given against the signature; others may come when it is built.

        Raises:
            InvalidOption: an option is unknown or of a wrong type.
            UnknownComponent: the component cannot be imported.
        """
        if self.component is not None:
            target = self.component.load()
            check_options(self.kind, spelling(self.component), target, self.options, partial=True)

    def build(self, /, **extra: Any) -> Any:
        """The object: built, or, where it is one already, as it was given, whatever the extra options.

        Args:
            **extra: options for what is yet to be built, a component or a class; the word's own come before
                them.

        Raises:
            InvalidOption, UnknownComponent: as ``odeframe.build``.
        """
        if self.component is not None:
            target = self.component.load()
            return construct(self.kind, spelling(self.component), target, {**extra, **self.options})
        if isinstance(self.object, type):
            return construct(self.kind, self.object.__qualname__, self.object, extra)
        return self.object


def available(kind: str) -> list[str]:
    """The registered names of a kind, sorted, each as it can be used; nothing is imported.

    A name that two plugins provide, or that clashes with one of ours, stands as "package/name". A component
    whose optional dependency is missing is listed too: ``describe`` says what it needs.

    Raises:
        InvalidOption: there is no such kind.
    """
    return sorted(map(spelling, components(kind)))


def describe(kind: str, name: str) -> dict[str, Any]:
    """What is known of a component, as plain data.

    Returns:
        name, kind, qualified, package, version, summary, source, facts, traits, needs, when, requires, missing
        (a text, empty where all is there) and options, a list of {name, type, default, required}; the default
        of a required option is None. Options are read from the class's signature: none are known where a
        dependency is missing.

    Raises:
        InvalidOption: there is no such kind.
        PluginConflict: several plugins provide the name.
        UnknownComponent: nobody provides the name, or its class does not import.
    """
    component = resolve(kind, name)
    part = component.part
    target = None if component.missing else component.load()
    document = inspect.cleandoc(getattr(target, "__doc__", "") or "").partition("\n")[0]  # not an inherited one
    when = {condition: {key: list(value) for key, value in added.items()} for condition, added in part.when.items()}
    options = [
        {
            "name": option.name,
            "type": option.type,
            "default": None if option.required else option.default,
            "required": option.required,
        }
        for option in (options_of(target)[0] if target is not None else [])
    ]
    return {
        "name": component.name,
        "kind": kind,
        "qualified": component.qualified,
        "package": component.package,
        "version": component.version,
        "summary": part.summary or document,
        "source": part.source,
        "facts": dict(part.facts),
        "traits": list(part.traits),
        "needs": list(part.needs),
        "when": when,
        "requires": list(part.requires),
        "missing": component.missing,
        "options": options,
    }


def build(kind: str, name: str, /, **options: Any) -> Any:
    """The component of that kind and name, built with these options.

    Raises:
        InvalidOption: the kind or an option is wrong.
        UnknownComponent: nobody provides the name, or its dependency is missing.
        PluginConflict: several plugins provide the name.
    """
    return Word(kind, resolve(kind, name), options).build()


def word(kind: str, value: Any) -> Word:
    """What was chosen for a kind, from a name, a mapping with "name" and options, or an object.

    Raises:
        InvalidOption: a mapping without a name, or a value that is no part, such as a number or None.
        UnknownComponent, PluginConflict: as ``resolve``.
    """
    check_kind(kind)
    if isinstance(value, Component):
        value = Word(value.kind, value)
    if isinstance(value, Word):
        if value.kind != kind:
            raise InvalidOption(f"got {value}, expected a {kind}")
        return value
    if isinstance(value, str):
        return Word(kind, resolve(kind, value))
    if isinstance(value, Mapping):
        options = dict(value)
        name = options.pop("name", None)
        if not isinstance(name, str):
            example = {"name": (available(kind) or ["..."])[0], **options}
            raise InvalidOption(f"got {dict(value)!r} as the {kind}, expected a name in it, as {example!r}")
        return Word(kind, resolve(kind, name), options)
    if value is None or isinstance(value, numbers.Number | bytes | list | tuple | set | frozenset):
        forms = "a name, a mapping {'name': ..., option: value} or an object"
        raise InvalidOption(f"got {value!r} as the {kind}, expected {forms}")
    return Word(kind, object=value)


def registered(kind: str, value: Any) -> Component | None:
    """The one component whose target is this class, or this object's class; None for none, or several."""
    found = [each for each in components(kind) if _imported(each.part.target) is _class(value)]
    return found[0] if len(found) == 1 else None


def provenance(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint records of a component: kind, qualified name, package, version and options, as plain
    data.

    Raises:
        InvalidOption: an option is not plain data, so that a checkpoint cannot hold it.
        UnknownComponent, PluginConflict: as ``resolve``.
    """
    component = resolve(kind, name)
    return {
        "kind": kind,
        "name": component.qualified,
        "package": component.package,
        "version": component.version,
        "options": {str(key): _plain(f"{kind} {name!r}: {key}", value) for key, value in options.items()},
    }


def check_provenance(records: Iterable[Mapping[str, Any]]) -> None:
    """Hold what a checkpoint records against what is installed.

    Warns where a package's version differs in its first number.

    Raises:
        UnknownComponent: a component is not to be had; says what to install.
        CheckpointError: a record is malformed.
    """
    installed = {plugin.package: plugin for plugin in plugins.loaded()}
    lacking = []
    for record in records:
        kind, name, package, version = (record.get(key) for key in ("kind", "name", "package", "version"))
        if kind not in KINDS or not all(isinstance(text, str) for text in (name, package, version)):
            raise CheckpointError(f"got {dict(record)!r}, expected the kind, name, package and version of a component")
        plugin, bare = installed.get(str(package)), str(name).rpartition("/")[2]
        what, command = f"{kind} {name!r} of {package} {version}", f"pip install {package}=={version}"
        if plugin is None:
            lacking.append(f"{what} is not installed: {command}")
        elif plugin.status != "ok":
            lacking.append(f"{what} is not in use, {package} {plugin.version} is {plugin.status}: {plugin.reason}")
        elif bare not in plugin.parts.get(str(kind), {}):
            lacking.append(f"{what} is gone from {package} {plugin.version}, which is installed: {command}")
        else:
            missing = resolve(str(kind), f"{package}/{bare}").missing
            if missing:
                lacking.append(f"{what} {missing}")
            elif plugin.version.partition(".")[0] != str(version).partition(".")[0]:
                warnings.warn(f"the checkpoint has {what}, installed is {plugin.version}", stacklevel=2)
    if lacking:
        raise UnknownComponent(f"the checkpoint cannot be used: {'; '.join(lacking)}")


def _class(value: Any) -> Any:
    return value if isinstance(value, type | types.FunctionType) else type(value)


def _imported(target: str | Callable[..., Any]) -> Any:
    # An object's class is imported already, so a target whose module is not cannot be that class.
    if not isinstance(target, str):
        return target
    module, _, path = target.partition(":")
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _plain(where: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral | numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, list | tuple):
        return [_plain(where, item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(where, item) for key, item in value.items()}
    got = f"{where} = {value!r} ({type(value).__name__})"
    raise InvalidOption(f"{got} cannot be kept in a checkpoint, expected numbers, strings, lists and mappings")
