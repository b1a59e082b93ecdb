"""The registered components: who provides a name, and which one a name stands for."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from odeframe import plugins
from odeframe.discovery import OURS, normalise
from odeframe.errors import InvalidOption, PluginConflict, UnknownComponent, suggestion
from odeframe.hookspecs import KINDS, Part, check_kind

__all__ = ["Component", "components", "resolve", "spelling"]


@dataclass(frozen=True)
class Component:
    """A registered part: its kind and name, who provides it, and what its plugin declares of it."""

    kind: str
    name: str
    qualified: str
    package: str
    version: str
    part: Part = field(hash=False)

    @property
    def missing(self) -> str:
        """What it needs that is not installed, and the command that installs it; empty where all is there."""
        wanted = [text.partition(":") for text in self.part.requires]
        absent = [(module, extra or module) for module, _, extra in wanted if not _is_installed(module)]
        if not absent:
            return ""
        modules, extras = (list(dict.fromkeys(column)) for column in zip(*absent, strict=True))
        return f"needs {', '.join(modules)}: pip install {self.package}[{','.join(extras)}]"

    def load(self) -> Callable[..., Any]:
        """The class, or another callable, that builds it; imported here where the plugin gave a string.

        Raises:
            UnknownComponent: an optional dependency is missing, or the target does not import.
        """
        whose = f"{self.kind} {self.name!r} of {self.package} {self.version}"
        if self.missing:
            raise UnknownComponent(f"{whose} {self.missing}")
        if not isinstance(self.part.target, str):
            return self.part.target
        module, _, path = self.part.target.partition(":")
        try:
            target: Any = importlib.import_module(module)
            for name in path.split("."):
                target = getattr(target, name)
        except (Exception, SystemExit) as error:
            what = f"{self.part.target} does not import: {type(error).__name__}: {error}"
            raise UnknownComponent(f"{whose}: {what}") from error
        if not callable(target):
            raise UnknownComponent(f"{whose}: {self.part.target} is {target!r}, expected a class or a function")
        return target


def components(kind: str) -> list[Component]:
    """The registered components of a kind, sorted by qualified name; nothing is imported.

    Raises:
        InvalidOption: there is no such kind.
    """
    every = (each for providers in _index()[check_kind(kind)].values() for each in providers)
    return sorted(every, key=lambda each: each.qualified)


def resolve(kind: str, name: str) -> Component:
    """The component that a name stands for: "name", where ours comes before anyone's, or "package/name".

    Raises:
        InvalidOption: there is no such kind, or the name is no string.
        UnknownComponent: nobody provides the name.
        PluginConflict: several plugins do, and none of them is ours.
    """
    table = _index()[check_kind(kind)]
    if not isinstance(name, str):
        raise InvalidOption(f"got {name!r} as the name of a {kind}, expected a string")
    package, slash, bare = name.rpartition("/")
    providers = table.get(bare, [])
    if slash:
        providers = [each for each in providers if each.package == normalise(package)]
    else:
        providers = [each for each in providers if each.package == OURS] or providers
    if not providers:
        raise UnknownComponent(_unknown(kind, name))
    if len(providers) > 1:
        packages = " and ".join(f"{each.package} {each.version}" for each in providers)
        choices = " or ".join(repr(each.qualified) for each in providers)
        raise PluginConflict(f"{kind} {name!r} is provided by {packages}: write {choices}")
    return providers[0]


def spelling(component: Component) -> str:
    """The shortest name by which a component is reached: its own, or "package/name"."""
    providers = _index()[component.kind].get(component.name, [])
    alone = all(each.package == component.package for each in providers)
    return component.name if alone or component.package == OURS else component.qualified


_cache: tuple[Any, dict[str, dict[str, list[Component]]]] = (None, {})


def _index() -> dict[str, dict[str, list[Component]]]:
    """Kind to name to providers, for the plugins as they are loaded now."""
    global _cache
    loaded = plugins.loaded()
    cached, index = _cache
    if cached is not loaded:
        index = {kind: {} for kind in KINDS}
        for plugin in loaded:
            for kind, table in plugin.parts.items():
                for name, part in table.items():
                    qualified = f"{plugin.package}/{name}"
                    component = Component(kind, name, qualified, plugin.package, plugin.version, part)
                    index[kind].setdefault(name, []).append(component)
        _cache = (loaded, index)
    return index


def _is_installed(module: str) -> bool:
    if not all(part.isidentifier() for part in module.split(".")):
        return any(True for _ in importlib.metadata.distributions(name=module))
    top = module.partition(".")[0]
    return sys.modules[top] is not None if top in sys.modules else importlib.util.find_spec(top) is not None


def _unknown(kind: str, name: str) -> str:
    names = sorted(map(spelling, components(kind)))
    text = f"there is no {kind} {name!r}.{suggestion(name, names)} Registered: {', '.join(names) or 'none'}."
    absent = [plugin for plugin in plugins.loaded() if plugin.status != "ok"]
    if absent:
        reasons = "; ".join(f"{each.package} {each.version} is {each.status}: {each.reason}" for each in absent)
        text += f" A plugin that is not in use may provide it: {reasons}"
    return text
