"""The default of an option as a class states it in its source, so that nothing heavy is imported to know it."""

from __future__ import annotations

import ast
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["UNKNOWN", "stated_default"]

UNKNOWN = object()
"""What is no literal in the source, or is not found there: the class itself has to be asked."""


def stated_default(target: str, option: str) -> Any:
    """The default of an option of ``"package.module:Class"``, or ``UNKNOWN``.

    It is read from the signature of the class's own ``__init__``, or of that of the first base that has one, as far as
    the bases are named plainly. The packages around the module are imported, the module is not.
    """
    module, _, name = target.partition(":")
    if module in sys.modules:
        return UNKNOWN
    tree = _tree(module)
    return UNKNOWN if tree is None else _default(module, tree, name, option)


@cache
def _tree(module: str) -> ast.Module | None:
    try:
        found = importlib.util.find_spec(module)
        return ast.parse(Path(found.origin or "").read_text("utf-8")) if found is not None else None
    except (ImportError, OSError, SyntaxError, ValueError):
        return None  # asking the class will say what is wrong


def _default(module: str, tree: ast.Module, name: str, option: str) -> Any:
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    if not classes or classes[0].decorator_list:
        return UNKNOWN
    for node in classes[0].body:
        if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "__new__"):
            return _literal(node.args, option)
    for base in classes[0].bases[:1]:
        if not isinstance(base, ast.Name):
            return UNKNOWN
        home = next((home for home in _imports(tree) if home[1] == base.id), None)
        if home is None:
            return _default(module, tree, base.id, option)
        lazily = getattr(sys.modules.get(home[0]), "_LAZY", {})  # odeframe's own names, which it imports on first use
        source = lazily.get(home[2], home[0])
        there = _tree(source)
        return UNKNOWN if there is None else _default(source, there, home[2], option)
    return UNKNOWN


def _imports(tree: ast.Module) -> list[tuple[str, str, str]]:
    """Module, name here and name there of what is imported by ``from module import name``."""
    return [
        (node.module, alias.asname or alias.name, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    ]


def _literal(arguments: ast.arguments, option: str) -> Any:
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        if argument.arg == option and default is not None:
            try:
                return ast.literal_eval(default)
            except ValueError:
                return UNKNOWN
    return UNKNOWN
