"""The check of plugins: what it selects, how it tells what failed; the kit's classes on the parts that are ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics import MeanAbsoluteError, MetricCollection

import odeframe
from odeframe import DataModule, DataSpec, Dynamics, InvalidOption, StepSolver, Task, plugin_check, plugins
from odeframe.cli import main
from odeframe.dynamics import SemilinearDynamics
from odeframe.hookspecs import Part
from odeframe.plugin_check import Checked, check_words
from odeframe.testing import (
    ArchitectureConformance,
    DataConformance,
    DynamicsConformance,
    SolverConformance,
    TaskConformance,
)
from odeframe.testing.installed import classes, conformance
from plugin_fakes import offer

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("mnist_5k",)  # read from a compressed table at every build


def ours(kind):
    """A conformance class for each registered part of ours, by its name; options are those of its table's example."""
    parts = [each for each in odeframe.registry.components(kind) if each.package == "odeframe" and not each.missing]
    words = [plugin_check.word_of(each) for each in parts if each.name not in SMALL]
    names = [each.name.title().replace("_", "") for each in parts if each.name not in SMALL]
    return {f"Test{kind.title()}{name}": cls for name, cls in zip(names, classes(words).values(), strict=True)}


globals().update(
    {name: pytest.mark.slow(cls) for kind in ("dynamics", "task", "data") for name, cls in ours(kind).items()}
)


class TestPerceptron(DynamicsConformance):
    dynamics = "mlp"


class TestTwoMoons(DataConformance):
    data = {"name": "two_moons", "n": 100}


# What each class catches.


def complaint(base, part, check, *arguments, **settings):
    """What a check says of a part that it must not let pass."""
    kit = type("Kit", (base,), {base.kind: part, **settings})
    with pytest.raises(AssertionError) as caught:
        getattr(kit(), check)(*arguments)
    return str(caught.value)


class Field(Dynamics):
    """A sound field, from which the wrong ones differ in one thing."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, t, x, u=None):
        return torch.tanh(self.layer(x))


class Transposed(Field):
    def forward(self, t, x, u=None):
        return super().forward(t, x).T


class Timed(Field):
    def forward(self, t, x, u=None):
        return super().forward(t, x) + t * x


class Wide(Field):
    def forward(self, t, x, u=None):
        return super().forward(t, x) * torch.ones(1, dtype=torch.float64)


class Random(Field):
    def forward(self, t, x, u=None):
        return super().forward(t, x) + torch.rand(1)


class Overwriting(Field):
    def forward(self, t, x, u=None):
        return super().forward(t, x.mul_(0.9))


class Halfway(Field):
    def __init__(self, width: int = 4.5):
        super().__init__(int(width))


class Averaged(Field):
    def forward(self, t, x, u=None):
        return super().forward(t, x - x.mean(0))


class Cut(Field):
    def forward(self, t, x, u=None):
        return super().forward(t, x.detach())


class Idle(Field):
    def __init__(self, width: int = 4):
        super().__init__(width)
        self.spare = nn.Parameter(torch.zeros(1))

    def reset_parameters(self):
        pass


class Unsplit(SemilinearDynamics):
    def matvec(self, x):
        return 2 * x

    def solve_shifted(self, dt, rhs):
        return rhs / (1 + 2 * dt)

    def nonlinear(self, t, x, u=None):
        return torch.tanh(x)

    def forward(self, t, x, u=None):
        return torch.tanh(x) + self.matvec(x)


@pytest.mark.parametrize(
    ("part", "check", "arguments", "text"),
    [
        (Transposed, "test_slopes_are_like_the_state", (5, torch.float64), "keep the batch first"),
        (Timed, "test_slopes_are_like_the_state", (5, torch.float64), "per_sample|raised RuntimeError"),
        (Wide, "test_slopes_are_like_the_state", (5, torch.float32), "write t.to(x) first"),
        (Random, "test_evaluation_repeats_itself", (), "two evaluations differ"),
        (Overwriting, "test_evaluation_repeats_itself", (), "has changed x itself"),
        (Halfway, "test_defaults_are_what_their_hints_say", (), "width: int = 4.5 has a default that is no int"),
        (Averaged, "test_samples_do_not_see_each_other", (), "declare the trait 'mean_field'"),
        (Cut, "test_every_parameter_gets_a_gradient", (), "no .detach()"),
        (Idle, "test_every_parameter_gets_a_gradient", (), "['spare'] take no part"),
        (Unsplit, "test_parts_are_those_of_forward", (), "nonlinear - matvec is not forward"),
    ],
)
def test_dynamics_that_are_wrong_are_told_why(part, check, arguments, text):
    said = complaint(DynamicsConformance, part, check, *arguments)
    assert any(each in said for each in text.split("|"))


class Distance(Task):
    """A sound task."""

    monitor = "mae"

    def output_shape(self, spec):
        return (1,)

    def cost(self, output, target):
        return (output - target.reshape(output.shape)).abs().sum(1)

    def metrics(self, spec):
        return MetricCollection({"mae": MeanAbsoluteError()})


class Reduced(Distance):
    def cost(self, output, target):
        return super().cost(output, target).mean()


class Relative(Distance):
    def cost(self, output, target):
        cost = super().cost(output, target)
        return cost / cost.sum()


class Constant(Distance):
    def cost(self, output, target):
        return (output.round() - target.reshape(output.shape)).square().sum(1)


class Elsewhere(Distance):
    monitor = "mse"


class Kept(Distance):
    kept = MetricCollection({"mae": MeanAbsoluteError()})

    def metrics(self, spec):
        return self.kept


class Listed(Distance):
    def output_shape(self, spec):
        return [1]


class Unnamed(Distance):
    def predict(self, output, spec):
        return {"value": output.mean(0)}


@pytest.mark.parametrize(
    ("part", "check", "text"),
    [
        (Listed, "test_output_shape_is_plain", "output_shape gives [1]"),
        (Reduced, "test_cost_is_a_number_for_each_sample", "reduction='none'"),
        (Relative, "test_cost_is_a_number_for_each_sample", "depends on the outputs of others"),
        (Constant, "test_cost_is_a_number_for_each_sample", "rounded or detached"),
        (Elsewhere, "test_metrics_can_be_monitored", "monitor = 'mse' is none of the metrics ['mae']"),
        (Kept, "test_metrics_can_be_monitored", "build new ones"),
        (Unnamed, "test_predictions_are_named_tensors", "named tensors (batch, ...)"),
    ],
)
def test_tasks_that_are_wrong_are_told_why(part, check, text):
    assert text in complaint(TaskConformance, part, check, data="diabetes", architecture="resnet")


def test_a_sound_task_is_learned():
    kit = type("Kit", (TaskConformance,), {"task": Distance, "data": "diabetes", "architecture": "resnet"})
    kit().test_a_network_learns_it()


class Points(DataModule):
    """Sound data."""

    shape = (2,)

    def specify(self):
        return DataSpec("points", self.shape, "class", 2, (), "classification")

    def load(self):
        return {split: self.rows() for split in ("train", "val", "test")}

    def rows(self, generator=None):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(20, 2, generator=generator)
        return TensorDataset(x, self.labels(x))

    def labels(self, x):
        return (x[:, 0] > 0).long()


class Misshapen(Points):
    shape = (3,)


class FromOne(Points):
    def labels(self, x):
        return 1 + (x[:, 0] > 0).long()


class RealLabels(Points):
    def labels(self, x):
        return (x[:, 0] > 0).float()


class Drawn(Points):
    def rows(self):
        x = torch.randn(20, 2)
        return TensorDataset(x, self.labels(x))


class Seeding(Points):
    def rows(self):
        torch.manual_seed(0)
        return super().rows()


class Wholes(Points):
    def rows(self):
        return TensorDataset(torch.arange(40).reshape(20, 2), torch.arange(20) % 2)


@pytest.mark.parametrize(
    ("part", "check", "text"),
    [
        (Misshapen, "test_batches_are_what_is_specified", "the specification says (batch, *(3,))"),
        (FromOne, "test_batches_are_what_is_specified", "labels go from 1 to 2, expected 0 to 1"),
        (RealLabels, "test_batches_are_what_is_specified", "expected whole numbers"),
        (Wholes, "test_batches_are_what_is_specified", "give floating-point numbers"),
        (Drawn, "test_splits_are_fixed", "a seed of its own"),
        (Seeding, "test_loading_leaves_the_seed_alone", "use one of your own"),
    ],
)
def test_data_that_are_wrong_are_told_why(part, check, text):
    assert text in complaint(DataConformance, part, check)


@pytest.mark.parametrize(("base", "part"), [(DynamicsConformance, Field), (DataConformance, Points)])
def test_what_is_sound_passes(base, part):
    kit = type("Kit", (base,), {base.kind: part})()
    for name in ("test_evaluation_repeats_itself", "test_every_parameter_gets_a_gradient", "test_drives_a_network"):
        getattr(kit, name, lambda: None)()
    for name in ("test_batches_are_what_is_specified", "test_splits_are_fixed", "test_its_task_takes_it"):
        getattr(kit, name, lambda: None)()


class Slope(StepSolver):
    """Euler's method, from which the wrong ones differ in one thing."""

    order = 1
    traits = ("step",)

    def step(self, field, t, dt, x, memory):
        return x + dt * field(t, x), ()


class Detached(Slope):
    def step(self, field, t, dt, x, memory):
        return x + dt * field(t, x).detach(), ()


class Numbers(Slope):
    def step(self, field, t, dt, x, memory):
        return torch.tensor((x + dt * field(t, x)).tolist(), dtype=x.dtype), ()


class Alone(Slope):
    def step(self, field, t, dt, x, memory):
        return x + dt * field(t, x)


class InPlace(Slope):
    def step(self, field, t, dt, x, memory):
        x.data.add_(dt * field(t, x).detach())
        return x + 0, ()


class Flattened(Slope):
    def step(self, field, t, dt, x, memory):
        return (x + dt * field(t, x)).flatten(), ()


class Forgetful(Slope):
    def step(self, field, t, dt, x):
        return x + dt * field(t, x), ()


class Rounded(Slope):
    def step(self, field, t, dt, x, memory):
        return x + dt * torch.ones(x.shape) * field(t, x), ()


@pytest.mark.parametrize(
    ("part", "check", "text"),
    [
        (Detached, "test_gradients_agree_with_differences", "a slope or a state was detached"),
        (Numbers, "test_gradients_agree_with_differences", "read as a number"),
        (Alone, "test_a_step_gives_a_state_and_a_memory", "ends with return x, ()"),
        (InPlace, "test_a_step_gives_a_state_and_a_memory", "has changed x itself"),
        (Flattened, "test_a_step_gives_a_state_and_a_memory", "keep its shape"),
        (Forgetful, "test_a_step_gives_a_state_and_a_memory", "called with these, raised TypeError"),
        (Rounded, "test_exact_on_polynomials", "the rounding of float32"),
    ],
)
def test_solvers_that_are_wrong_are_told_why(part, check, text):
    assert text in complaint(SolverConformance, part, check)


@pytest.mark.parametrize(
    "solver",
    [
        Slope,
        {"name": "dopri5"},
        {"name": "verlet"},
        {"name": "implicit_midpoint"},
        {"name": "reversible_heun"},
        {"name": "layer_parallel"},
    ],
)
def test_sound_solvers_give_the_gradient_of_what_they_compute(solver):
    kit = type("Kit", (SolverConformance,), {"solver": solver})()
    kit.test_gradients_agree_with_differences()
    if kit.test_a_step_gives_a_state_and_a_memory is not None:
        kit.test_a_step_gives_a_state_and_a_memory()


@pytest.mark.parametrize(
    ("base", "name"),
    [(SolverConformance, "Solver"), (TaskConformance, "Task"), (ArchitectureConformance, "Architecture")],
)
def test_what_is_no_part_of_its_kind_is_told_so_once(base, name):
    with pytest.raises(InvalidOption, match=f"expected a kind of odeframe.{name}: write class Thing"):
        type("Kit", (base,), {base.kind: type("Thing", (), {})})


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn", "was detached"),
        ("AttributeError: 'NoneType' object has no attribute 'detach'", "does it end with a return?"),
        ("TypeError: Mine.on() takes 2 positional arguments but 3 were given", "compare it with the interface's own"),
        ("AssertionError: the order is wrong", "the order is wrong"),
    ],
)
def test_errors_within_a_part_come_with_their_likely_cause(message, text):
    assert plugin_check._hint(message).endswith(text) or text in plugin_check._hint(message)


# Classes made on the fly.


class Fussy(Field):
    """Says how it is to be tested."""

    conformance = {"state_shape": (7,)}

    def __init__(self, width: int = 7):
        super().__init__(7)


@pytest.fixture
def sound():
    """A plugin with one sound part, one that cannot be built, one of a missing dependency; and a broken plugin."""
    parts = {
        "fussy": Fussy,
        "lost": "nowhere.at_all:Thing",
        "absent": Part(Field, requires=("no_such_module",)),
    }
    plugins.reload([offer("sound", dynamics=parts), offer("torn", solver=ValueError("gone")), *own()])
    try:
        yield
    finally:
        plugins.reload()


def own():
    """Our own plugin's entry."""
    return [entry for entry in plugins.installed() if entry.dist.name == "odeframe"]


def test_a_class_says_how_its_part_is_tested(sound):
    kit = conformance("dynamics", "fussy")
    assert issubclass(kit, DynamicsConformance) and kit.state_shape == (7,)
    kit().test_slopes_are_like_the_state(5, torch.float32)
    made = classes([("solver", "rk4"), ("architecture", {"name": "resnet", "width": 4})])
    assert list(made) == ["Test0", "Test1"]
    assert issubclass(made["Test0"], SolverConformance) and issubclass(made["Test1"], ArchitectureConformance)


def test_what_cannot_be_built_is_a_failed_check_with_the_reason(sound):
    for name, text in (("lost", "nowhere.at_all:Thing does not import"), ("absent", "needs no_such_module")):
        kit = classes([("dynamics", name)])["Test0"]
        assert [each for each in dir(kit) if each.startswith("test_")] == ["test_can_be_built"]
        with pytest.raises(pytest.fail.Exception, match=text):
            kit().test_can_be_built()


def test_a_gradient_is_tested_with_the_solvers_that_it_goes_with():
    assert [each["name"] for each in conformance("gradient", "backprop").solvers] == [
        "rk4",
        "dopri5",
        "reversible_heun",
    ]
    assert [each["name"] for each in conformance("gradient", "reversible").solvers] == ["reversible_heun"]


# The command.


@pytest.fixture
def asked(monkeypatch):
    """The words that a command has checked; all pass but those of dynamics."""
    seen = []

    def check(words):
        seen.extend(words)
        failure = [("test_a", "the sign is wrong"), ("test_b", "more")]
        return [Checked(f"{kind} x", 3, failure if kind == "dynamics" else []) for kind, _ in words]

    monkeypatch.setattr(plugin_check, "check_words", check)
    return seen


def test_by_default_all_packages_but_ours_are_checked(sound, asked, capsys):
    assert main(["plugins", "check"]) == 1
    out = capsys.readouterr().out
    assert asked == [("dynamics", name) for name in ("absent", "fussy", "lost")]
    assert "torn             0       1\n    quarantined: odeframe_solvers raised ValueError: gone" in out
    assert "dynamics x       3       2\n    test_a: the sign is wrong (and 1 more, see --json)" in out


def test_packages_and_parts_can_be_named(sound, asked, capsys):
    assert main(["plugins", "check", "solver=rk4", "solver={name: rk4, steps: 3}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert asked == [("solver", "rk4"), ("solver", {"name": "rk4", "steps": 3})]
    assert found[0] == {"part": "solver x", "passed": 3, "failed": 0, "failures": []}
    assert main(["plugins", "check", "sound"]) == 1
    assert len(asked) == 5
    assert main(["plugins", "check", "odeframe"]) == 1
    assert ("solver", "rk4") in asked[5:]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sond"], "Did you mean 'sound'?"),
        (["solver=rk5"], "there is no solver 'rk5'"),
        (["solvr=rk4"], "Did you mean 'solver'?"),
        (["solver=3"], "got 3 as the solver"),
        (["--jsn"], "expected check [PACKAGE | KIND=NAME ...]"),
    ],
)
def test_wrong_arguments(sound, asked, capsys, arguments, text):
    assert main(["plugins", "check", *arguments]) == 2
    assert text in capsys.readouterr().err and not asked


def test_without_other_packages_there_is_nothing_to_check(asked, capsys):
    plugins.reload(own())
    try:
        assert main(["plugins", "check"]) == 2
    finally:
        plugins.reload()
    assert "odeframe plugins check solver=rk4" in capsys.readouterr().err


def test_pytest_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(plugin_check.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(odeframe.UnknownComponent, match="pip install pytest"):
        check_words([("solver", "rk4")])


@pytest.mark.slow
def test_checks_are_made_in_a_process_of_their_own_and_counted():
    good, lost = check_words([("control", "constant"), ("solver", {"name": "rk4", "order": 4})])
    assert good.part == "control constant" and good.passed > 10 and good.failures == []
    assert lost.part == "solver rk4 (order=4)" and lost.passed == 0
    [(check, hint)] = lost.failures
    assert check == "test_can_be_built" and hint.startswith("solver 'rk4' has no option 'order'")


@pytest.mark.slow
def test_parts_that_ask_for_classes_sequences_or_densities_are_put_to_them():
    parts = [("trainer", "trades"), ("architecture", "cnf"), ("architecture", "antisymmetric_rnn")]
    for found, least in zip(check_words(parts), (5, 10, 10), strict=True):
        assert found.passed >= least and not found.failures, found


DIES = """
import os
from odeframe.testing.installed import classes
made = classes({words!r})
made["Test0"].test_step_options_are_checked = lambda self: os._exit(3)
globals().update(made)
"""


@pytest.mark.slow
def test_the_check_in_which_a_process_dies_is_named(monkeypatch):
    monkeypatch.setattr(plugin_check, "MODULE", DIES)
    [found] = check_words([("solver", "euler")])
    [(check, hint)] = found.failures
    assert check == "test_step_options_are_checked" and "ended with status 3" in hint


WRONG = """
from odeframe.testing.installed import classes
made = classes({words!r})
def wrong(self): raise AssertionError("wrong")
for name in ("test_solving_back_returns", "test_order", "test_needs_are_declared"):
    setattr(made["Test0"], name, wrong)
globals().update(made)
"""


@pytest.mark.slow
def test_the_most_telling_of_several_failures_is_the_first(monkeypatch):
    monkeypatch.setattr(plugin_check, "MODULE", WRONG)
    [found] = check_words([("solver", "euler")])
    assert len(found.failures) == 3 and found.failures[0][0] == "test_order"


@pytest.mark.slow
def test_a_process_that_dies_is_told(monkeypatch):
    monkeypatch.setattr(plugin_check, "MODULE", "import os\nos._exit(7)  # {words}\n")
    [found] = check_words([("control", "constant")])
    assert found.passed == 0 and found.failures[0][0] == "no check was made"
    assert "ended with status 7" in found.failures[0][1]


# Lists.


def test_a_list_has_traits_and_sources(sound, capsys):
    assert main(["plugins", "list", "--json"]) == 0
    found = {each["package"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["sound"]["traits"] == {"dynamics": {"absent": [], "fussy": [], "lost": []}}
    assert found["odeframe"]["traits"]["solver"]["verlet"] == ["step", "reversible", "partitioned", "symplectic"]
    assert found["odeframe"]["sources"]["solver"]["heun"] == "Heun 1900; Shu, Osher 1988"


# Fifty packages.


def test_fifty_packages_are_listed_without_importing_a_part(tmp_path):
    for index in range(50):
        name = f"fifty_{index:02d}"
        where = tmp_path / f"{name}-1.0.dist-info"
        where.mkdir()
        (where / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (where / "entry_points.txt").write_text(f"[odeframe]\n{name} = {name}\n")
        (tmp_path / name).mkdir()
        table = f'{{"{name}_{{}}".format(i): "{name}.part:Part{{}}".format(i) for i in range(5)}}'
        hook = f"@odeframe.hookimpl\ndef odeframe_solvers():\n    return {table}\n"
        (tmp_path / name / "__init__.py").write_text(f"import odeframe\n\n\n{hook}")
        (tmp_path / name / "part.py").write_text("raise RuntimeError('a part was imported')\n")
    script = """
import sys
from odeframe.cli import main
assert main(["plugins", "list"]) == 0
light = [name for name in sys.modules if name.startswith("fifty_")]
heavy = {"torch", "numpy", "pytorch_lightning", "sklearn", "matplotlib", "rich"} & set(sys.modules)
print("loaded", len(light), sorted(heavy), len(sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("  ok\n") >= 51 and "fifty_49_4" in done.stdout
    count, heavy, modules = done.stdout.splitlines()[-1].removeprefix("loaded ").split(" ", 2)
    assert (count, heavy) == ("50", "[]")
    assert int(modules) < 500, "a light command imports many modules"
