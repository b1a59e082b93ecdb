"""Which classes a configuration may name, and errors of Lightning's parser as one line."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable

from jsonargparse import set_parsing_settings

from odeframe import plugins
from odeframe.cli.console import one_line
from odeframe.errors import suggestion

__all__ = ["allow_known_imports", "explain"]

ALLOWED = (
    "odeframe",
    "torch.optim",
    "pytorch_lightning.accelerators",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.cli.ReduceLROnPlateau",
    "pytorch_lightning.loggers",
    "pytorch_lightning.plugins",
    "pytorch_lightning.profilers",
    "pytorch_lightning.strategies",
    "lightning_fabric.plugins",
)
"""Where the classes of a configuration may come from, beside the packages of enabled plugins."""

LIBRARIES = {*sys.stdlib_module_names, *("jsonargparse", "lightning_fabric", "numpy", "pytorch_lightning", "torch")}
"""What a plugin does not open up by taking a part from it."""


def allow_known_imports() -> None:
    """Has Lightning's parser refuse every other ``class_path``, before it is imported."""
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*ALLOWED, *plugin_modules()],
        instantiate_subclass_spec_in_any=False,
    )


def plugin_modules() -> list[str]:
    """The top-level modules in which the parts of enabled plugins are."""
    targets = [part.target for each in plugins.loaded() for table in each.parts.values() for part in table.values()]
    named = (target if isinstance(target, str) else getattr(target, "__module__", "") for target in targets)
    return sorted({name.partition(":")[0].partition(".")[0] for name in named} - {"", *LIBRARIES})


def explain(message: str, known: Iterable[str]) -> str:
    """An error of Lightning's parser as one line.

    Args:
        message: what it raised, over several lines.
        known: the names that could have been meant.
    """
    unknown = re.search(r"unrecognized arguments: --(\S+?)(=|\s|$)", message)
    if unknown:
        return f"there is no argument --{unknown[1]}.{suggestion(unknown[1], known)}"
    key = re.search(r'Parser key "([^"]+)"', message)
    where = key[1] if key else "trainer, optimizer or callbacks"
    refused = re.search(r"Importing '([^']+)' is not allowed", message)
    if refused:
        if refused[1].startswith("lightning."):
            instead = "pytorch_lightning." + refused[1].removeprefix("lightning.").removeprefix("pytorch.")
            return f"{where}: {refused[1]!r} is not imported: write {instead!r}"
        places = "odeframe, torch.optim, Lightning's callbacks, loggers, strategies and plugins, and enabled plugins"
        return f"{where}: {refused[1]!r} is not imported: a configuration names classes of {places} alone"
    nested = re.search(r"NestedArg\(key='([^']+)', val=(.*)\)\s*$", message)
    name = re.search(r"Expected a dot import path string: (\w+)", message)
    if name and not nested:
        classes = _classes(where)
        near = suggestion(name[1], classes)
        return f"{where}: there is none named {name[1]!r}.{near} Those by name: {', '.join(classes)}."
    value = re.search(r".*Given value: (.*)", message, re.DOTALL)
    got = ""
    if nested:
        where, got = f"{where}.{nested[1]}", f"got {nested[2]}, "
    elif value and "Namespace(" not in value[1]:
        got = f"got {one_line(value[1])[:200]!r}, "
    return f"{where}: {got}{'; '.join(_reasons(message)) or one_line(message)}"


_FRAME = (
    *("Parser key", "Does not validate", "Subtypes:", "Errors:", "Given value", "Problem with"),
    *("Expected a path", "Expected a dot import"),
)


def _reasons(message: str) -> list[str]:
    """What the lines of a parser's message say beside its frame and the alternatives that are always there."""
    reasons: list[str] = []
    for line in message.splitlines():
        text = re.sub(r"<class '(?:builtins\.)?([^']+)'>|typing\.", r"\1", line.strip(" -"))
        if text.startswith(("Not a valid subclass", "Given value")):
            break
        if text and not text.startswith(_FRAME) and "NoneType" not in text and text != "Expected a list":
            reasons.append(text[0].lower() + text[1:].replace("xpected a ", "xpected ", 1))
    return list(dict.fromkeys(reasons))


def _classes(key: str) -> list[str]:
    """The classes that a key of Lightning's configuration takes by their bare name."""
    modules = {
        "optimizer": "torch.optim",
        "lr_scheduler": "torch.optim.lr_scheduler",
        "trainer.callbacks": "pytorch_lightning.callbacks",
        "trainer.logger": "pytorch_lightning.loggers",
        "trainer.strategy": "pytorch_lightning.strategies",
        "trainer.profiler": "pytorch_lightning.profilers",
    }
    module = importlib.import_module(modules.get(key, "pytorch_lightning.callbacks"))
    return sorted(name for name in getattr(module, "__all__", vars(module)) if name[:1].isupper())
