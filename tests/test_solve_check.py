"""Networks built by hand: one that is its differential equation, one that lives on the errors of its steps."""

import csv
import json
import math

import pytest
import torch
from torch import nn

from odeframe import FlowModule, Incompatible, InvalidOption
from odeframe.cli import main
from odeframe.plots_solver import solve_check
from odeframe.solve_check import GRADIENT, SCORE, examine
from odeframe.solver_study import Study
from odeframe.specification import DataSpec

LINE = DataSpec("line", (1,), "class", 2, (), "classification").to_dict()
PLANE = DataSpec("plane", (2,), "class", 2, (), "classification").to_dict()


class Linear(nn.Module):
    """``f(x) = A x``."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor(matrix))

    def forward(self, x):
        return x @ self.matrix.T


def module(spec, matrix, solver, control="constant", horizon=1.0):
    """A network whose stem is the identity and whose head reads the first component: ``(-3 x, 3 x)``."""
    width = spec["input_shape"][0]
    words = {"dynamics": Linear(matrix), "solver": solver, "control": control}
    made = FlowModule(spec, {"name": "neural_ode", "width": width, "horizon": horizon}, **words)
    stages = made.network.stages
    with torch.no_grad():
        stages["stem"].weight.copy_(torch.eye(width))
        stages["stem"].bias.zero_()
        head = next(part for part in stages["head"].modules() if isinstance(part, nn.Linear))
        head.weight.copy_(torch.cat([-3 * torch.eye(width)[:1], 3 * torch.eye(width)[:1]]))
        head.bias.zero_()
    return made


def turned(solver, control="constant"):
    """A quarter turn of the plane, so that the label is the sign of what was the second component."""
    torch.manual_seed(1)
    x = torch.randn(64, 2)
    labels = (-x[:, 1] > 0).long()
    rotation = [[0.0, -math.pi / 2], [math.pi / 2, 0.0]]
    return module(PLANE, rotation, solver, control), [(x[:32], labels[:32]), (x[32:], labels[32:])]


def flipped(steps):
    """Euler's steps of ``x' = -2 n x``, each of which flips the sign: no equation on the line can."""
    torch.manual_seed(1)
    x = torch.randn(64, 1)
    labels = (x[:, 0] * (-1) ** steps > 0).long()
    return module(LINE, [[-2.0 * steps]], {"name": "euler", "steps": steps}), [(x, labels)]


@pytest.mark.slow
def test_a_true_equation_is_found_to_be_one():
    report = examine(*turned({"name": "rk4", "steps": 16}))
    assert report.is_ode and report.reasons == []
    assert report.trained.score == 1.0 and report.trained.nfe == 64
    finer = [each for each in report.trials if each.finer]
    assert [each.setting for each in finer] == ["32 steps", "64 steps", "128 steps", "rtol 1e-05", "rtol 1e-05"]
    assert all(each.kept and each.gradient_difference < 1e-3 for each in finer)
    assert report.cheapest.nfe <= report.cheapest_to_train.nfe < report.trained.nfe


def test_a_network_that_crosses_itself_is_tied_to_its_scheme():
    report = examine(*flipped(1))
    assert not report.is_ode
    assert report.trained.score == 1.0 and report.cheapest is report.trained is report.cheapest_to_train
    two = next(each for each in report.trials if each.setting == "2 steps")
    assert {each.setting for each in report.trials if each.nfe == 1 and each.solver == "euler"} == {"1 step, trained"}
    assert two.finer and two.nfe == 2 and not two.kept  # x -> (1 - 1)^2 x = 0
    dopri5 = next(each for each in report.trials if each.solver == "dopri5" and each.finer)
    assert dopri5.score == 0.0  # x -> exp(-2) x keeps the sign
    assert any("accuracy 0, trained 1" in reason for reason in report.reasons)


def test_a_score_that_stays_with_another_gradient_is_tied_too():
    """Two flips of a sign are none, so the score stays: the gradient alone tells."""
    report = examine(*flipped(2))
    assert not report.is_ode
    reference = next(each for each in report.trials if each.solver == "dopri5" and each.finer)
    assert reference.score == 1.0 and reference.kept and reference.gradient_difference > GRADIENT
    assert not reference.exact and any("the gradient differs by" in reason for reason in report.reasons)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2)])
def test_the_observed_order_is_that_of_the_scheme(name, order):
    report = examine(*turned({"name": name, "steps": 8}), solvers=[])
    assert report.claimed == order and report.order == pytest.approx(order, abs=0.2)
    assert {each.solver for each in report.trials} == {name}


def test_differences_of_gradients_are_those_of_two_backward_passes():
    made, batches = turned({"name": "euler", "steps": 8})
    report = examine(made, batches, ["rk4"])
    gradients = []
    for solver in ({"name": "euler", "steps": 8}, {"name": "rk4", "steps": 16}):
        twin, _ = turned(solver)
        twin.objective(batches[0]).loss.backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in twin.parameters()]))
    expected = (gradients[1] - gradients[0]).norm() / max(gradient.norm() for gradient in gradients)
    trial = next(each for each in report.trials if each.setting == "16 steps" and each.solver == "rk4")
    assert trial.gradient_difference == pytest.approx(float(expected), rel=1e-4)


def test_finer_steps_split_the_pieces_and_coarser_ones_do_not_straddle_them():
    made, batches = turned({"name": "euler", "steps": 4}, {"name": "piecewise_constant", "pieces": 4, "init": "copy"})
    own = [each for each in examine(made, batches, ["rk4"]).trials if each.own]
    assert [each.setting for each in own] == ["4 steps, trained", "8 steps", "16 steps", "32 steps"]
    made, batches = turned({"name": "euler", "steps": 8}, {"name": "piecewise_constant", "pieces": 4, "init": "copy"})
    settings = [each.setting for each in examine(made, batches, ["rk4"]).trials]
    assert settings == [
        *("4 steps", "8 steps, trained", "16 steps", "32 steps", "64 steps"),
        *("4 steps", "8 steps", "16 steps", "32 steps", "64 steps"),
    ]


def test_an_adaptive_network_is_held_to_tighter_tolerances():
    report = examine(*turned({"name": "dopri5", "rtol": 1e-3, "atol": 1e-3}), ["rk4"])
    assert report.is_ode and report.order is None and report.claimed is None
    own = {each.setting: each for each in report.trials if each.own}
    assert [name for name, each in own.items() if each.finer] == ["rtol 1e-04", "rtol 1e-05"]
    assert own["rtol 1e-01"].nfe <= own["rtol 1e-03, trained"].nfe < own["rtol 1e-05"].nfe
    assert own["rtol 1e-05"].word == {"name": "dopri5", "rtol": pytest.approx(1e-5), "atol": pytest.approx(1e-5)}


def test_the_network_itself_is_left_as_it_was():
    made, batches = turned({"name": "rk4", "steps": 4})
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.train()
    examine(made, batches, ["euler"])
    assert made.training and made.network.flows[0].solver.steps == 4
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters())


def test_a_failed_solve_is_a_row_with_its_reason_and_speaks_against():
    made, batches = turned({"name": "euler", "steps": 2})
    with torch.no_grad():
        made.network.flows[0].dynamics.module.matrix.copy_(6000 * torch.eye(2))
    report = examine(made, batches, [])
    failed = [each for each in report.trials if each.failure]
    assert failed and all(math.isnan(each.score) and not each.kept for each in failed)
    assert not report.is_ode and any("the solve failed" in reason for reason in report.reasons)
    assert report.to_dict()["trials"][-1]["score"] is None
    json.dumps(report.to_dict(), allow_nan=False)
    solve_check(report)


def test_schemes_with_weights_of_their_own_are_held_to_their_own_steps_alone():
    made, batches = turned({"name": "hyper_euler", "steps": 4})
    assert {each.solver for each in Study(made, batches).trials(None)} == {"hyper_euler"}
    with pytest.raises(Incompatible, match="leave --solvers out"):
        examine(made, batches, ["rk4"])


def test_what_cannot_be_checked_is_refused():
    made, batches = turned({"name": "rk4", "steps": 4})
    with pytest.raises(InvalidOption, match="no batch"):
        examine(made, [])
    with pytest.raises(Incompatible, match="solver 'verlet' needs a dynamics with the trait 'separable'"):
        examine(made, batches, ["verlet"])
    with pytest.raises(Incompatible, match="solver 'leapfrog' is for second-order equations"):
        examine(made, batches, ["rk4", "leapfrog"])
    made.network.stages = nn.ModuleDict({"stem": nn.Linear(2, 2)})
    with pytest.raises(Incompatible, match="no flow"):
        examine(made, batches)


def test_thresholds_are_those_of_the_help(capsys):
    assert main(["solve-check", "--help"]) == 0
    out = capsys.readouterr().out
    assert f"at most {SCORE}" in out and f"at most {GRADIENT * 100:.0f} %" in " ".join(out.split())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small residual network on two moons."""
    output = tmp_path_factory.mktemp("checked")
    small = ("--data=two_moons", "--data.n=100", "--model.architecture.width=4", "--model.architecture.blocks=2")
    assert main(["fit", *small, "--trainer.max_epochs=1", "--output", str(output), "--quiet"]) == 0
    return output / "checkpoints" / "last.ckpt"


@pytest.mark.slow
def test_the_command_prints_a_table_and_leaves_results_and_a_picture(checkpoint, tmp_path, capsys):
    assert main(["solve-check", str(checkpoint), "--output", str(tmp_path), "--solvers", "rk4,dopri5"]) == 0
    out = capsys.readouterr().out
    assert (
        "euler         2 steps, trained" in out and "\nverdict      " in out and "cheapest     --model.solver=" in out
    )
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["solver"] for row in rows} == {"euler", "rk4", "dopri5"}
    assert float(rows[0]["nfe"]) == 2 and rows[0]["gradient_difference"] == "0.0"
    assert (tmp_path / "figures" / "solve_check.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_prints_plain_data(checkpoint, tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--solvers=rk4", "--json", "--split=test", "--batches=1"]
    assert main(["solve-check", str(checkpoint), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] in ("ode", "tied to its scheme") and found["claimed_order"] == 1
    assert found["thresholds"] == {"score": SCORE, "relative": 0.05, "gradient": GRADIENT}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["missing.ckpt"], "no such file"),
        ([], "odeframe solve-check CHECKPOINT"),
        (["a.ckpt", "b.ckpt"], "expected one CHECKPOINT"),
        (["a.ckpt", "--solver=rk4"], "Did you mean '--solvers'?"),
        (["a.ckpt", "--split=all"], "expected one of train, val, test"),
        (["a.ckpt", "--batches=0"], "expected a number of at least 1"),
        (["a.ckpt", "--output"], "--output needs a value"),
    ],
)
def test_wrong_arguments(arguments, text, capsys):
    assert main(["solve-check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert text in out + err
