"""Which classes a configuration may name, and errors of Lightning's parser as one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from jsonargparse import set_parsing_settings

from odeframe import plugins
from odeframe.cli_console import one_line
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

LIBRARIES = {*sys.stdlib_module_names, "jsonargparse", "lightning_fabric", "numpy", "pytorch_lightning", "torch", "yaml"}
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
    refused = re.search(r"Importing '([^']+)' is not allowed", message)
    key = re.search(r'Parser key "([^"]+)"', message)
    where = key[1] if key else "trainer"
    if refused:
        places = "odeframe, torch.optim, Lightning's callbacks, loggers, strategies and plugins, and enabled plugins"
        return f"{where}: {refused[1]!r} is not imported: a configuration names classes of {places} alone"
    value = re.search(r"Given value: (.*)", message, re.DOTALL)
    got = f"got {one_line(value[1])[:200]!r}, " if value else ""
    reasons = [one_line(line.strip(" -")) for line in message.splitlines() if _tells(line)]
    return f"{where}: {got}{'; '.join(dict.fromkeys(reasons)) or one_line(message)}"


def _tells(line: str) -> bool:
    """Whether a line of the parser's message says something: its frame, and the alternatives that are always there, not."""
    text = line.strip(" -")
    frame = ("Parser key", "Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a path")
    return bool(text) and not text.startswith(frame) and "NoneType" not in text
