"""A new package with one part, written out: what ``odeframe plugins new`` does."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template

from odeframe.component import components
from odeframe.errors import InvalidOption
from odeframe.hookspecs import HOOKS, check_kind

__all__ = ["new_package"]

TEMPLATES = Path(__file__).parent / "plugin_template"
NAME = re.compile(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*")
OWN = "odeframe"


@dataclass(frozen=True)
class Sample:
    """What the table and the tests say of a kind's example.

    Attributes:
        summary: one line.
        source: paper and section.
        declared: further arguments of its ``Part``.
        words: what goes with it in a network, as ``odeframe.compose`` takes it; the part itself is ``{part}``.
    """

    summary: str
    source: str
    declared: tuple[str, ...]
    words: str


SAMPLES = {
    "dynamics": Sample(
        "f(t, x) = V tanh(W x + b) - x: a perceptron with damping",
        "Hopfield 1984",
        ('traits=("vector",)',),
        'dynamics="{part}", data="two_moons"',
    ),
    "control": Sample(
        "weights that go linearly with depth, a + t b",
        "yours",
        ('traits=("open_loop", "tied", "time_varying")',),
        'control="{part}", data="two_moons"',
    ),
    "solver": Sample(
        "Heun's method, order 2",
        "Heun 1900",
        ('traits=("step",)',),
        'solver="{part}", data="two_moons"',
    ),
    "gradient": Sample(
        "backpropagation through the steps that were taken",
        "discretise-then-optimise",
        ('traits=("exact",)', 'needs=("solver:!forward_only",)'),
        'gradient="{part}", data="two_moons"',
    ),
    "architecture": Sample(
        "flatten, lift, flow, read out",
        "yours",
        (),
        'architecture="{part}", data="two_moons"',
    ),
    "trainer": Sample(
        "gradient descent by steps along g / |g|",
        "yours",
        ('traits=("ddp",)',),
        'trainer="{part}", data="two_moons"',
    ),
    "task": Sample(
        "regression by Huber's loss, which forgives outliers",
        "Huber 1964",
        ('needs=("data:values",)',),
        'task="{part}", data="diabetes"',
    ),
    "data": Sample(
        "a noisy wave: one number from another",
        "yours",
        ('traits=("values",)',),
        'data="{part}"',
    ),
}


def new_package(name: str, kind: str, output: Path | None = None) -> Path:
    """Writes a complete package: entry point, a working example part, tests, README and a CI file.

    Args:
        name: of the package; the part is called the same, with underscores and without a leading ``odeframe-``.
        kind: of the part.
        output: the folder, which must not exist; default ``name`` in the current one.

    Returns:
        the folder.

    Raises:
        InvalidOption: the name cannot be a package's or is taken, the kind is unknown, or the folder exists or cannot
            be written.
    """
    check_kind(kind)
    values = _values(name, kind)
    folder = Path(name) if output is None else Path(output)
    if folder.exists():
        raise InvalidOption(f"plugins new: {folder} exists already; write another name, or --output DIR")
    aside = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a start that was killed
        for path, text in _files(kind, values).items():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).write_text(text, "utf-8")
        (aside / ".ci" / "run").chmod(0o755)
        aside.rename(folder)
    except OSError as error:
        raise InvalidOption(f"plugins new: {folder} cannot be written: {error.strerror or error}") from error
    return folder


def _values(name: str, kind: str) -> dict[str, str]:
    """What the templates' words stand for."""
    if not NAME.fullmatch(name):
        hint = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
        hint = f"; {hint!r} would do" if NAME.fullmatch(hint) else ""
        raise InvalidOption(f"plugins new: got the name {name!r}, expected one like 'my-{kind}'{hint}")
    module = re.sub(r"[-.]", "_", name)
    bare = module.removeprefix(f"{OWN}_")
    if keyword.iskeyword(bare) or module in sys.stdlib_module_names or importlib.util.find_spec(module) is not None:
        raise InvalidOption(f"plugins new: there is a module {module!r} already; write another name, e.g. 'my-{name}'")
    taken = [each for each in components(kind) if each.name == bare]
    if taken:
        raise InvalidOption(
            f"plugins new: {taken[0].package} has a {kind} {bare!r} already; write another name, e.g. 'my-{name}'"
        )
    sample = SAMPLES[kind]
    words = sample.words.format(part=bare)
    cls = "".join(word.title() for word in bare.split("_"))
    return {
        "package": name,
        "module": module,
        "part": bare,
        "cls": cls,
        "kind": kind,
        "hook": HOOKS[kind],
        "conformance": f"{kind.title()}Conformance",
        "summary": sample.summary,
        "source": sample.source,
        "declared": "".join(f"\n            {text}," for text in sample.declared),
        "words": words,
        "usage": _usage(words),
    }


def _usage(words: str) -> str:
    """The words of ``odeframe.compose`` as arguments of the command line."""
    pairs = re.findall(r'(\w+)="(\w+)"', words)
    return " ".join(f"--{'' if kind == 'data' else 'model.'}{kind}={name}" for kind, name in pairs)


def _files(kind: str, values: dict[str, str]) -> dict[str, str]:
    """The package's files by path."""
    sources = {
        "pyproject.toml": "pyproject",
        "README.md": "readme",
        ".ci/run": "ci",
        f"{values['module']}/__init__.py": "entry",
        f"{values['module']}/{kind}.py": kind,
        f"tests/test_{values['part']}.py": "test",
    }
    texts = {path: (TEMPLATES / f"{source}.txt").read_text("utf-8") for path, source in sources.items()}
    return {path: Template(text).substitute(values) for path, text in texts.items()}
