"""New plugin packages: what is written, what is refused, and that each works as it is."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from odeframe import InvalidOption
from odeframe.cli import main
from odeframe.hookspecs import KINDS
from odeframe.scaffold import SAMPLES, new_package

ROOT = Path(__file__).resolve().parents[1]

SSPRK54 = '''"""A scheme that preserves strong stability."""

from odeframe import StepSolver


class Ssprk54(StepSolver):
    """Five stages, order 4. Source: Spiteri, Ruuth 2002, A new class of optimal SSP methods."""

    order = 4
    traits = ("step",)

    def step(self, field, t, dt, x, memory):
        c1, c2, c3, c4 = 0.391752226571890, 0.586079689311540, 0.474542363121400, 0.935010630967653
        x1 = x + 0.391752226571890 * dt * field(t, x)
        x2 = 0.444370493651235 * x + 0.555629506348765 * x1 + 0.368410593050371 * dt * field(t + c1 * dt, x1)
        x3 = 0.620101851488403 * x + 0.379898148511597 * x2 + 0.251891774271694 * dt * field(t + c2 * dt, x2)
        k3 = field(t + c3 * dt, x3)
        x4 = 0.178079954393132 * x + 0.821920045606868 * x3 + 0.544974750228521 * dt * k3
        k4 = field(t + c4 * dt, x4)
        last = 0.063692468666290 * dt * k3 + 0.386708617503268 * x4 + 0.226007483236906 * dt * k4
        return 0.517231671970585 * x2 + 0.096059710526147 * x3 + last, ()
'''

HALVES = '''"""Weights that jump once."""

from torch import nn

from odeframe import Control
from odeframe.block import fresh_copy
from odeframe.control import BlockLaw


class Halves(Control):
    """One set of weights for each half of the horizon."""

    traits = ("open_loop",)
    pieces = 2
    block = property(lambda self: self.halves[0])

    def build(self, block, steps):
        self.halves = nn.ModuleList([block, fresh_copy(block)])

    def breakpoints(self):
        return (sum(self.horizon) / 2,)

    def on(self, t, t_next):
        start, end = self.horizon
        middle = (float(t) + float(t_next)) / 2
        return BlockLaw(self.halves[int((middle - start) / (end - start) > 0.5)])
'''

SHARPNESS = '''"""Minima that are flat."""

import torch

from odeframe import ControlTrainer
from odeframe.reduction import average
from odeframe.trainer import optimizer_step


class Sharpness(ControlTrainer):
    """The gradient at ``u + rho g / |g|``. Source: Foret et al. 2021, Sharpness-Aware Minimization."""

    automatic_optimization = False
    traits = ("ddp",)

    def __init__(self, rho: float = 0.01):
        self.rho = rho

    def training_step(self, module, batch):
        weights = [p for p in module.parameters() if p.requires_grad]
        loss = module.objective(batch).loss
        ascent = average(torch.autograd.grad(loss, weights))
        scale = self.rho / (torch.stack([g.norm() for g in ascent]).norm() + 1e-12)
        torch._foreach_add_([p.data for p in weights], ascent, alpha=float(scale))
        gradients = average(torch.autograd.grad(module.objective(batch).loss, weights))
        torch._foreach_add_([p.data for p in weights], ascent, alpha=-float(scale))
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer_step(module)
        return loss.detach()
'''

FALSE = '''"""Euler's method, which takes itself for better than it is."""

from odeframe import StepSolver


class False3(StepSolver):
    """Order 1, and says 3; says nothing to the table of what it is."""

    order = 3
    traits = ("step", "symplectic")

    def step(self, field, t, dt, x, memory):
        return x + dt * field(t, x), ()
'''

OUTSIDE = {
    ("ssprk54", "solver"): SSPRK54,
    ("halves", "control"): HALVES,
    ("sharpness", "trainer"): SHARPNESS,
    ("false3", "solver"): FALSE,
}


def environment(*folders, **variables):
    """That of a process which sees no plugin but those in the folders."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ODEFRAME_")}
    one_thread = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, (*folders, ROOT)))}
    return {**kept, **one_thread, **variables}


def command(*arguments, folders=(), cwd=None, status=0):
    """What a command prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        env=environment(*folders),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_complete_and_its_part_is_short(kind, tmp_path):
    folder = new_package(f"odeframe-my-{kind}", kind, tmp_path / "made")
    module, part = f"odeframe_my_{kind}", f"my_{kind}"
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == sorted(
        [
            *(".ci/run", "README.md", "pyproject.toml"),
            *(f"{module}/__init__.py", f"{module}/{kind}.py", f"tests/test_{part}.py"),
        ]
    )
    assert os.access(folder / ".ci" / "run", os.X_OK)
    assert not list(tmp_path.glob(".*")), "something is left beside the package"
    texts = {path: (folder / path).read_text("utf-8") for path in files}
    assert "$" not in "".join(text for path, text in texts.items() if path != ".ci/run")
    assert all(max(map(len, text.splitlines())) <= 120 for path, text in texts.items() if path.endswith(".py"))
    trees = {path: ast.parse(text) for path, text in texts.items() if path.endswith(".py")}
    lines = [line for line in texts[f"{module}/{kind}.py"].splitlines() if line.strip()]
    assert len(lines) <= 20, f"the example part has {len(lines)} lines"
    assert all(ast.get_docstring(tree) for tree in trees.values())
    imports = [node for node in ast.walk(trees[f"{module}/__init__.py"]) if isinstance(node, ast.Import)]
    assert [alias.name for node in imports for alias in node.names] == ["odeframe"], "the entry module is light"
    project = tomllib.loads(texts["pyproject.toml"])
    assert project["project"]["entry-points"]["odeframe"] == {module: module}
    assert project["project"]["name"] == f"odeframe-my-{kind}"
    assert "://" not in "".join(texts.values()), "no host is named"


def test_every_kind_has_a_sample():
    assert tuple(sorted(SAMPLES)) == tuple(sorted(KINDS))


def test_the_template_in_the_examples_is_what_is_written(tmp_path):
    made, kept = new_package("my-heun", "solver", tmp_path / "made"), ROOT / "examples" / "plugin_template"
    named = {
        folder: {
            path.relative_to(folder): path.read_text("utf-8")
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and not path.parts[-2].endswith(".egg-info")
        }
        for folder in (made, kept)
    }
    assert named[made] == named[kept], "odeframe plugins new my-heun --kind solver --output examples/plugin_template"


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("MyHeun", "solver", "'my-heun' would do"),
        ("my heun", "solver", "'my-heun' would do"),
        ("1st", "solver", "expected one like 'my-solver'"),
        ("../up", "solver", "'up' would do"),
        ("", "solver", "got the name ''"),
        ("rk4", "solver", "odeframe has a solver 'rk4' already"),
        ("odeframe-rk4", "solver", "odeframe has a solver 'rk4' already"),
        ("json", "data", "there is a module 'json' already"),
        ("torch", "data", "there is a module 'torch' already"),
        ("odeframe", "solver", "there is a module 'odeframe' already"),
        ("lambda", "solver", "there is a module 'lambda' already"),
        ("mine", "solvr", "Did you mean 'solver'?"),
    ],
)
def test_what_cannot_be_a_package_is_refused(name, kind, text, tmp_path):
    with pytest.raises(InvalidOption) as caught:
        new_package(name, kind, tmp_path / "made")
    assert text in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    with pytest.raises(InvalidOption, match="exists already"):
        new_package("mine", "solver", tmp_path / "made")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOption, match="cannot be written"):
        new_package("mine", "solver", tmp_path / "file" / "made")


def test_the_command_says_what_to_do_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "my-heun", "--kind", "solver"]) == 0
    out = capsys.readouterr().out
    assert "pip install --no-build-isolation -e 'my-heun[test]'\n  odeframe plugins check my-heun" in out
    assert (tmp_path / "my-heun" / "my_heun" / "solver.py").is_file()
    for wrong in (["my-heun"], ["--kind=solver"], ["a", "b", "--kind=solver"], ["a", "--kind"], ["a", "--knd=solver"]):
        assert main(["plugins", "new", *wrong]) == 2
        assert "expected new NAME --kind KIND" in capsys.readouterr().err


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder into which pip has installed a generated package of each kind, and some that authors have changed."""
    folder = tmp_path_factory.mktemp("scaffold")
    made = [new_package(f"odeframe-my-{kind}", kind, folder / "sources" / kind) for kind in KINDS]
    for (name, kind), text in OUTSIDE.items():
        assert name == "false3" or len(text.splitlines()) <= 30
        made.append(new_package(name, kind, folder / "sources" / name))
        (made[-1] / name / f"{kind}.py").write_text(text)
        entry = made[-1] / name / "__init__.py"
        entry.write_text(entry.read_text().replace('("open_loop", "tied", "time_varying")', '("open_loop",)'))
    copies = shutil.copytree(folder / "sources", folder / "copies")  # pip leaves its build folders beside the source
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command("pip", "install", *options, "--target", folder / "site", *sorted(copies.iterdir()))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_generated_package_passes_its_check_as_it_is(site):
    packages = [f"odeframe-my-{kind}" for kind in KINDS]
    found = json.loads(command("odeframe", "plugins", "check", *packages, "--json", folders=[site / "site"]))
    assert [each["part"] for each in found] == [f"{kind} my_{kind}" for kind in KINDS]
    assert all(each["failed"] == 0 and each["passed"] >= 4 for each in found), found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tests_of_generated_packages_pass(site):
    paths = [path for kind in KINDS for path in (site / "sources" / kind / "tests").glob("*.py")]
    options = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-k", "one_word_puts")
    out = command("pytest", *options, "--rootdir", site, *paths, folders=[site / "site"], cwd=site)
    assert f"{len(KINDS)} passed" in out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_parts_that_nobody_has_seen_pass_and_join_the_matrix(site):
    folders = [site / "site"]
    found = json.loads(
        command("odeframe", "plugins", "check", "ssprk54", "halves", "trainer=sharpness", "--json", folders=folders)
    )
    assert sorted(each["part"] for each in found) == ["control halves", "solver ssprk54", "trainer sharpness"]
    assert all(each["failed"] == 0 for each in found), found
    words = ("solver=ssprk54", "control=halves", "trainer=sharpness")
    for pair in (words[:2], words[1:], words[::2]):
        shown = command("odeframe", "matrix", *pair, folders=folders)
        assert ": yes, in " in shown


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_part_that_claims_too_much_fails_with_what_is_likely_wrong(site):
    out = command("odeframe", "plugins", "check", "false3", folders=[site / "site"], status=1)
    assert out.splitlines()[0].split() == ["part", "passed", "failed"]
    assert "test_order: order 3 is claimed" in out and "more, see --json" in " ".join(out.split())
    found = json.loads(command("odeframe", "plugins", "check", "false3", "--json", folders=[site / "site"], status=1))
    hints = {each["check"]: each["hint"] for each in found[0]["failures"]}
    assert "order 3 is claimed" in hints["test_order"] and "check the weights" in hints["test_order"]
    assert "it drifts" in hints["test_energy_does_not_drift"]
    assert "the plugin's table declares the traits ['step']" in hints["test_traits_of_table_and_class_agree"]
