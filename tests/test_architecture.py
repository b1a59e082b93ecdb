"""The layout of the code: which module may import which, what is imported where, how long a file may be."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports from its own row and the rows above it. A package (testing) stands for all of its modules.
LAYERS = (
    ("errors",),
    ("agreement", "sampler", "inference"),
    ("options", "hookspecs", "discovery", "plugins", "component", "registry", "specification", "stated"),
    ("compatibility", "matrix", "covering"),
    (
        "dynamics",
        "noise",
        "drive",
        "grid",
        "solution",
        "field",
        "block",
        "control",
        "quadrature",
        "system",
        "costs",
        "jacobian_costs",
        "cost_words",
        "likelihoods",
        "particle_filters",
    ),
    (
        "walk",
        "solver",
        "adaptive",
        "attempt",
        "event",
        "ridders",
        "transforms",
        "compiled",
        "gradient",
        "pace",
        "sample_pace",
        "stepsize",
    ),
    ("stepmap", "initial_value", "flow"),
    ("network", "stopping"),
    (
        "trainer",
        "task",
        "reduction",
        "assembly",
        "support",
        "offered",
        "schedule",
        "attacks",
        "pontryagin",
    ),
    (
        "optimizers",
        "fit_noise",
        "settling",
        "checkpoint",
        "checkpoint_files",
        "module",
        "data",
        "callbacks",
        "replica_guard",
        "refine",
        "robustness",
    ),
    ("composition", "run", "packing", "trial"),
    (
        "plots",
        "plots_control",
        "plots_density",
        "plots_solver",
        "plots_pontryagin",
        "metrics",
        "monitor",
        "solver_study",
        "solve_check",
    ),
    (*("comparison", "cli", "plugin_check", "scaffold", "demo", "testing"),),
    ("__main__",),
    ("__init__",),  # exports everything, lazily; nothing below imports from it
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

LIGHTNING = ("pytorch_lightning", "lightning")
# Third-party package: the modules that may import it, each with everything below it.
ONLY_IN = {
    "pluggy": ("odeframe.hookspecs", "odeframe.plugins", "odeframe.registry"),
    **dict.fromkeys(
        LIGHTNING,
        (
            *(f"odeframe.{name}" for name in ("module", "data", "callbacks", "refine", "run", "comparison", "demo")),
            *(
                f"odeframe.{name}"
                for name in (
                    "checkpoint_files",
                    "cli.folder",
                    "cli.lightning",
                    "cli.run",
                    "monitor",
                    "replica_guard",
                    "settling",
                    "robustness",
                    "trial",
                )
            ),
            "odeframe.testing",
            "odeframe_plugins.data",
        ),
    ),
}
MAX_FILE_LINES = 299
MAX_FUNCTION_LINES = 59


class Import(NamedTuple):
    """What is imported, as an absolute dotted name; where; and whether for type checkers alone."""

    target: str
    where: str
    typing: bool


def within(name: str, package: str) -> bool:
    """Whether the dotted name is the package or lies in it."""
    return name == package or name.startswith(package + ".")


class Source:
    """The parsed modules of odeframe/ and plugins/ below a root, by the names they are imported under."""

    def __init__(self, root: Path) -> None:
        self.files = dict(self._modules(root / "odeframe", "odeframe"))
        self.files |= dict(self._modules(root / "plugins", "odeframe_plugins"))
        self.trees = {name: ast.parse(path.read_text("utf-8")) for name, path in self.files.items()}
        self.imports = {name: list(self._imports(name)) for name in self.files}

    @staticmethod
    def _modules(folder: Path, package: str) -> Iterator[tuple[str, Path]]:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path

    def _imports(self, module: str) -> Iterator[Import]:
        """Every import, also inside functions and under TYPE_CHECKING: a lazy import has a direction too."""
        path = self.files[module]
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        typing = {
            id(node)
            for guard in ast.walk(self.trees[module])
            if isinstance(guard, ast.If) and ast.unparse(guard.test).endswith("TYPE_CHECKING")
            for statement in guard.body
            for node in ast.walk(statement)
        }
        for node in ast.walk(self.trees[module]):
            where = f"{path.parent.name}/{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, where, id(node) in typing) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    name = f"{base}.{alias.name}"
                    yield Import(name if name in self.files else base, where, id(node) in typing)
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                    yield Import(node.args[0].value, where, id(node) in typing)


def noun(module: str) -> str:
    """The row entry of a core module: `odeframe.testing.solver` stands under `testing`."""
    return module.split(".")[1] if "." in module else "__init__"


def unranked(source: Source) -> list[str]:
    names = {noun(module) for module in source.files if within(module, "odeframe")}
    return [f"odeframe.{name}: add it to LAYERS in {Path(__file__).name}" for name in sorted(names - RANK.keys())]


def upward(source: Source) -> list[str]:
    return [
        f"{item.where}: {module} (layer {RANK[noun(module)]}) imports {item.target} (layer {RANK[noun(item.target)]})"
        for module, items in source.imports.items()
        for item in items
        if within(module, "odeframe") and within(item.target, "odeframe")
        if RANK.get(noun(item.target), -1) > RANK.get(noun(module), len(LAYERS))
    ]


def core_names_plugins(source: Source) -> list[str]:
    return [
        f"{item.where}: the core imports {item.target}; it may know plugins through the registry alone"
        for module, items in source.imports.items()
        for item in items
        if within(module, "odeframe") and within(item.target, "odeframe_plugins")
    ]


def across_kinds(source: Source) -> list[str]:
    return [
        f"{item.where}: imports {item.target}; a kind's folder names other kinds by the registry's strings"
        for module, items in source.imports.items()
        for item in items
        if within(module, "odeframe_plugins") and within(item.target, "odeframe_plugins")
        if module != "odeframe_plugins"  # the entry module gathers the tables of all kinds
        if module.split(".")[1:2] != item.target.split(".")[1:2]
    ]


def misplaced(source: Source) -> list[str]:
    return [
        f"{item.where}: {package} may be imported only in {', '.join(homes)}"
        for package, homes in ONLY_IN.items()
        for module, items in source.imports.items()
        for item in items
        if within(item.target, package) and not any(within(module, home) for home in homes)
    ]


def cycle(source: Source) -> list[str]:
    """One cycle of what is imported at run time: an annotation may point sideways in its row."""
    graph = {
        module: {item.target for item in items if item.target in source.files and not item.typing}
        for module, items in source.imports.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def undocumented(source: Source) -> list[str]:
    return [
        f"{module}: a module starts with a docstring that says what it is"
        for module, tree in source.trees.items()
        if not module.rpartition(".")[2].startswith("_") and not ast.get_docstring(tree)
    ]


def overlong(source: Source) -> list[str]:
    found = []
    for module, path in source.files.items():
        num_lines = len(path.read_text("utf-8").splitlines())
        if num_lines > MAX_FILE_LINES:
            found.append(f"{module}: {num_lines} lines, at most {MAX_FILE_LINES}; it holds two ideas")
        for node in ast.walk(source.trees[module]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if num_lines > MAX_FUNCTION_LINES:
                    found.append(f"{module}.{node.name}: {num_lines} lines, at most {MAX_FUNCTION_LINES}")
    return found


RULES = (unranked, upward, core_names_plugins, across_kinds, misplaced, cycle, undocumented, overlong)


@pytest.fixture(scope="module")
def source() -> Source:
    found = Source(ROOT)
    assert {"odeframe", "odeframe_plugins"} <= found.files.keys(), f"no sources below {ROOT}"
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_source_keeps_the_rule(rule, source):
    found = rule(source)
    assert not found, "\n" + "\n".join(found)


IF_TYPING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
BREACHES = [
    (unranked, "odeframe/surprise.py", "", "odeframe.surprise"),
    (upward, "odeframe/solver.py", "from .flow import Flow", "odeframe.flow"),
    (upward, "odeframe/solver.py", "def f():\n    from odeframe import flow", "odeframe.flow"),
    (upward, "odeframe/errors.py", "from odeframe import Flow", "imports odeframe (layer"),
    (upward, "odeframe/flow.py", "import odeframe.testing.kit", "odeframe.testing.kit"),
    (core_names_plugins, "odeframe/solver.py", "import odeframe_plugins.solvers", "odeframe_plugins.solvers"),
    (
        core_names_plugins,
        "odeframe/cli.py",
        "import importlib as x\nx.import_module('odeframe_plugins')",
        "cli.py:2",
    ),
    (across_kinds, "plugins/tasks/a.py", "from odeframe_plugins.data.b import B", "odeframe_plugins.data.b"),
    (across_kinds, "plugins/tasks/a.py", "from ..data import b", "odeframe_plugins.data.b"),
    (misplaced, "odeframe/flow.py", "import pytorch_lightning as pl", "pytorch_lightning may be"),
    (misplaced, "plugins/tasks/a.py", "from lightning.pytorch import Trainer", "lightning may be"),
    (misplaced, "odeframe/solver.py", "import pluggy", "pluggy may be"),
    (upward, "odeframe/solver.py", f"{IF_TYPING}from .flow import Flow", "odeframe.flow"),
    (cycle, "odeframe/flow.py", "from . import stepmap", "odeframe.stepmap"),
    (undocumented, "odeframe/solver.py", "x = 1", "odeframe.solver"),
    (overlong, "odeframe/solver.py", "x = 1\n" * 300, "300 lines"),
    (overlong, "odeframe/solver.py", "def f():\n" + "    x = 1\n" * 59, "solver.f: 60 lines"),
]


@pytest.mark.parametrize(("rule", "path", "text", "message"), BREACHES)
def test_rule_finds_a_breach(rule, path, text, message, tmp_path):
    legal = {
        "odeframe/__init__.py": '"""Core."""',
        "odeframe/flow.py": '"""Flow."""\nfrom .solver import Solver',
        "odeframe/stepmap.py": '"""Step maps."""\nfrom odeframe import flow, gradient',
        "odeframe/gradient.py": f'"""Gradient."""\n{IF_TYPING}from .solver import Solver',
        "odeframe/solver.py": '"""Solver."""\nfrom . import errors, gradient\n' + "x = 1\n" * 297,
        "odeframe/errors.py": '"""Errors."""',
        "odeframe/module.py": '"""Module."""\nimport pytorch_lightning\n' + "def f():\n" + "    x = 1\n" * 58,
        "odeframe/testing/kit.py": '"""Kit."""\nfrom ..flow import Flow',
        "plugins/__init__.py": '"""Plugins."""\nimport odeframe',
        "plugins/tasks/a.py": '"""A."""\nfrom . import c',
        "plugins/tasks/c.py": '"""C."""',
        "plugins/data/b.py": '"""B."""\nimport lightning',
    }
    for name, content in legal.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert [found for check in RULES for found in check(Source(tmp_path))] == []
    (tmp_path / path).write_text(text)
    assert message in "\n".join(rule(Source(tmp_path)))


LISTING = """
import runpy
sys.argv = ["odeframe", "plugins", "list"]
try:
    runpy.run_module("odeframe", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize(
    "code", ["import odeframe", "import odeframe_plugins", LISTING], ids=["core", "plugins", "list"]
)
def test_light_entry_points_load_neither_torch_nor_lightning(code, tmp_path):
    heavy = ("torch", *LIGHTNING)
    script = f"import sys\n{code}\nprint('loaded:', *sorted(set({heavy}) & set(sys.modules)))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:", done.stdout
