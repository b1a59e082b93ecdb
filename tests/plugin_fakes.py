"""Plugins that exist in memory only: an entry module and the entry point that leads to it."""

import types
from types import SimpleNamespace
from typing import Any

import odeframe
from odeframe.hookspecs import HOOKS


class FakeEntry:
    """What importlib.metadata gives for an entry point, as far as the loader looks at it."""

    def __init__(self, package: str, content: Any, version: str = "1.0", name: str = "plugin") -> None:
        self.name, self.value = name, f"{package}.entry"
        self.dist = SimpleNamespace(name=package, version=version)
        self.content = content

    def load(self) -> Any:
        """The entry module; raises it where it is an exception."""
        if isinstance(self.content, BaseException):
            raise self.content
        return self.content


def module(package: str, **names: Any) -> types.ModuleType:
    """A module with these names in it."""
    made = types.ModuleType(f"{package}.entry")
    vars(made).update(names)
    return made


def offer(package: str, version: str = "1.0", **tables: Any) -> FakeEntry:
    """A plugin with one hook for each kind=table; the hook returns the table, or raises it."""

    def hook(table: Any) -> Any:
        def tell() -> Any:
            if isinstance(table, BaseException):
                raise table
            return table

        return odeframe.hookimpl(tell)

    return FakeEntry(package, module(package, **{HOOKS[kind]: hook(table) for kind, table in tables.items()}), version)
