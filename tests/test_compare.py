"""The comparison: plans, means, records that survive a kill, cells that fail, tables, picture and page."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

import odeframe
from odeframe import plots
from odeframe.cli import main
from odeframe.cli.compare import compare_arguments
from odeframe.comparison import command
from odeframe.comparison.execution import LocalExecutor, cell_path, read_record
from odeframe.comparison.plan import Budget, Cell, Plan
from odeframe.comparison.report import report
from odeframe.comparison.runner import compare, unfinished
from odeframe.comparison.statistics import mean, student_quantile
from odeframe.comparison.summary import Row, pareto_front, results_table, summarise
from odeframe.errors import Incompatible, InvalidOption, UnknownComponent

EPOCH = Budget("epochs", 1)
MOONS = {"name": "two_moons", "n": 40}
AXES = {"data": [MOONS], "architecture": ["resnet", "neural_ode"], "solver": ["euler", "verlet"]}


class Recorded:
    """Runs nothing: a record is made of each cell by a function of it; ends after so many."""

    def __init__(self, make, most=10**9):
        self.make, self.most, self.ran = make, most, []

    def run(self, cells, folder, started):
        from odeframe.comparison.cell import tell

        for cell in cells:
            if len(self.ran) == self.most:
                raise KeyboardInterrupt
            started(cell)
            self.ran.append(cell)
            tell(cell_path(folder, cell), cell, self.make(cell))
            yield cell, read_record(cell_path(folder, cell))


def good(cell, score=0.5):
    costs = dict.fromkeys(
        ("evaluations_forward", "evaluations_backward", "evaluations", "seconds", "peak_memory_mb"), 1.0
    )
    return {
        "status": "done",
        "reason": "",
        "metrics": {"accuracy": score + 0.1 * cell.seed, "loss": 1.0},
        "monitor": "accuracy",
        "mode": "max",
        "parameters": 12,
        **costs,
        "batches": 1,
        "epochs": 1,
        "solver_status": "SUCCESS",
        "curves": {"epoch": [1.0], "val_accuracy": [score]},
        "versions": {"torch": "2"},
    }


def bad(cell):
    return {"status": "failed", "reason": "SolveFailed: </script><b>no", "solver_status": "NON_FINITE"}


@pytest.fixture(scope="module")
def plan():
    return Plan(AXES, [0, 1], EPOCH)


@pytest.fixture
def no_picture(monkeypatch):
    """Leaves the picture out, which takes longer than all the rest of a comparison that runs nothing."""
    monkeypatch.setattr(plots, "save", lambda figure, path: path)


def test_plan_has_the_legal_combinations_and_the_reasons_of_the_others(plan):
    assert [words["architecture"] for words in plan.combinations] == ["resnet", "neural_ode"]
    assert {words["solver"] for words in plan.combinations} == {"euler"}
    assert [reason for _, reason in plan.illegal] == [
        "solver 'verlet' needs a dynamics with the trait 'separable', which dynamics 'mlp' lacks."
    ] * 2
    assert len(plan.cells()) == 4


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"solvr": ["euler"]}, InvalidOption, "Did you mean 'solver'"),
        ({"solver": ["euler", "euler"]}, InvalidOption, "stands twice"),
        ({"solver": ["eulr"]}, UnknownComponent, "Did you mean 'euler'"),
        ({"solver": [{"name": "euler", "stepz": 2}]}, InvalidOption, "has no option 'stepz'"),
        ({"solver": [3]}, InvalidOption, "got 3"),
        ({"solver": []}, InvalidOption, "got no value"),
        ({"optimizer": ["Adm"]}, InvalidOption, "Did you mean 'Adam'"),
        ({"schedule": ["cosin"]}, InvalidOption, "expected 'cosine' or 'constant'"),
        ({"costs": ["nonsense"]}, InvalidOption, "expected a mapping of names to weights"),
    ],
)
def test_plan_refuses(axes, error, message):
    with pytest.raises(error, match=message):
        Plan(axes, [0], EPOCH)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"learning_rate": [1e-3, -1.0]}, "Invalid learning rate"),
        ({"learning_rate": [1e-3, "abc"]}, "expected float"),
        ({"optimizer": ["SGD", "Adam"], "optimizer_options": [{"momentum": 0.9}]}, "no option 'momentum'"),
    ],
)
def test_an_optimiser_that_cannot_be_is_told_before_anything_runs(axes, message):
    plan = Plan({"data": [MOONS], **axes}, [0], EPOCH)
    assert len(plan.combinations) == 1 and message in plan.illegal[0][1]


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1]])
def test_plan_refuses_seeds(seeds):
    with pytest.raises(InvalidOption, match="seeds"):
        Plan({"data": [MOONS]}, seeds, EPOCH)


@pytest.mark.parametrize(("unit", "amount"), [("hours", 1), ("epochs", 0), ("epochs", 1.5), ("seconds", math.nan)])
def test_budget_refuses(unit, amount):
    with pytest.raises(InvalidOption):
        Budget(unit, amount)


def test_identity_is_of_all_that_decides_the_result():
    cell = Cell({"solver": "euler"}, 0, EPOCH)
    assert Cell.read(json.loads(json.dumps(cell.plain()))).identity == cell.identity
    others = [
        Cell({"solver": "rk4"}, 0, EPOCH),
        Cell({"solver": "euler"}, 1, EPOCH),
        Cell({"solver": "euler"}, 0, Budget("seconds", 1)),
        Cell({"solver": "euler"}, 0, EPOCH, "cpu"),
    ]
    assert len({cell.identity, *(other.identity for other in others)}) == 5


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_student_quantile_is_scipys(freedom):
    from scipy.stats import t

    assert student_quantile(0.95, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-10)


def test_interval_of_the_mean():
    found = mean([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.half == pytest.approx(4.302652729911275 / math.sqrt(3), rel=1e-9)
    assert mean([5.0]).half is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_pareto_front_is_what_nothing_dominates(points):
    front = {points[index] for index in pareto_front(points)}
    undominated = {(c, s) for c, s in points if not any((d <= c and r >= s) and (d, r) != (c, s) for d, r in points)}
    assert front == undominated


def test_a_stopped_comparison_goes_on_where_it_was(plan, tmp_path, no_picture):
    first = Recorded(good, most=1)
    with pytest.raises(KeyboardInterrupt):
        compare(plan, tmp_path / "runs" / "a", first)
    assert unfinished(plan, tmp_path / "runs") == tmp_path / "runs" / "a"
    assert (tmp_path / "runs" / "a" / "report.html").is_file(), "what there is, is told"
    second = Recorded(good)
    rows = compare(plan, tmp_path / "runs" / "a", second)
    assert [cell.identity for cell in second.ran] == [cell.identity for cell in plan.cells()[1:]]
    assert [row.seeds for row in rows] == [2, 2, 0, 0]
    assert unfinished(plan, tmp_path / "runs") is None, "a finished comparison is not gone on with"
    other = Plan(AXES, [0, 1, 2], EPOCH)
    third = Recorded(good)
    compare(other, tmp_path / "runs" / "a", third)
    assert {cell.seed for cell in third.ran} == {2}, "a larger comparison takes the cells that are there"


def test_a_torn_record_is_run_again(plan, tmp_path, no_picture):
    compare(plan, tmp_path, Recorded(good))
    victim = cell_path(tmp_path / "cells", plan.cells()[2])
    victim.write_text(victim.read_text()[:40])
    again = Recorded(good)
    compare(plan, tmp_path, again)
    assert again.ran == [plan.cells()[2]]


def test_failed_cells_are_rows_and_are_run_again_on_request(plan, tmp_path, no_picture):
    rows = compare(plan, tmp_path, Recorded(lambda cell: bad(cell) if cell.seed else good(cell)))
    assert [(row.status, row.seeds, row.failed) for row in rows[:2]] == [("partly", 1, 1)] * 2
    assert rows[0].reasons == ["SolveFailed: </script><b>no"]
    assert [row.status for row in rows[2:]] == ["illegal", "illegal"]
    kept, again = Recorded(good), Recorded(good)
    compare(plan, tmp_path, kept)
    assert kept.ran == []
    rows = compare(plan, tmp_path, again, retry=True)
    assert {cell.seed for cell in again.ran} == {1}
    assert rows[0].status == "done"
    assert rows[0].metrics["accuracy"].value == pytest.approx(0.55)


def test_tables_have_a_line_a_combination_and_a_line_a_cell(plan, tmp_path):
    compare(
        plan, tmp_path, Recorded(lambda cell: good(cell, 0.7) if cell.words["architecture"] == "resnet" else bad(cell))
    )
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["status"] for line in lines] == ["done", "failed", "illegal", "illegal"]
    assert float(lines[0]["test_accuracy"]) == pytest.approx(0.75)
    assert float(lines[0]["test_accuracy_ci95"]) == pytest.approx(12.706204736 * 0.05, rel=1e-6)
    assert lines[0]["solver_status"] == "SUCCESS" and lines[1]["solver_status"] == "NON_FINITE"
    assert lines[0]["versions"] == "torch 2" and lines[1]["reason"] == "SolveFailed: </script><b>no"
    with (tmp_path / "cells.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["seed"] for cell in cells] == ["0", "0", "1", "1"]
    assert all((tmp_path / cell["file"]).is_file() for cell in cells)
    assert (tmp_path / "figures" / "pareto.png").read_bytes().startswith(b"\x89PNG")


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs).get("id"))

    def handle_data(self, data):
        self.texts[self._open] = self.texts.get(self._open, "") + data


def rows_of(plan, make=good):
    return summarise(plan, {cell.identity: {**cell.plain(), **make(cell)} for cell in plan.cells()})


def test_page_is_one_file_that_asks_for_nothing(plan):
    text = report(plan, rows_of(plan), "odeframe compare ...")
    page = Page(text)
    links = [value for _, attrs in page.elements for key, value in attrs.items() if key in ("src", "href")]
    assert links == ["data:,"]
    outside = set(re.findall(r"(?:https?:)?//[a-z0-9.]+", text)) - {"http://www.w3.org"}  # the name of SVG's elements
    assert not outside and "@import" not in text and "url(" not in text
    assert "default-src 'none'" in text and 'name="viewport"' in text
    assert "@@" not in text


def test_page_holds_the_data_whatever_is_in_it(plan):
    page = Page(report(plan, rows_of(plan, lambda cell: {**good(cell), "reason": ""} if cell.seed else bad(cell)), "x"))
    data = json.loads(page.texts["script", "data"])
    assert [row["reasons"] for row in data["rows"]] == [["SolveFailed: </script><b>no"]] * 2
    assert data["monitor"] == "accuracy" and len(data["illegal"]) == 2
    nan = json.loads(Page(report(plan, rows_of(plan, lambda cell: good(cell, math.nan)), "x")).texts["script", "data"])
    assert nan["rows"][0]["metrics"]["accuracy"]["value"] is None


def test_results_of_a_comparison_without_records(plan):
    lines = results_table(plan, summarise(plan, {}))
    assert [line["status"] for line in lines] == ["open", "open", "illegal", "illegal"]
    assert "0 cells failed" in report(plan, summarise(plan, {}), "")


def test_arguments_and_file_are_laid_over_each_other(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("solver: [euler, {name: rk4, steps: 4}]\ndata: digits\nseeds: [4, 7]\nepochs: 3\nretry: true\n")
    asked = compare_arguments(["--config", str(path), "--trainer", "gradient,{name: emsa, rho: 2}", "--seconds=5"])
    assert asked.axes["solver"] == ["euler", {"name": "rk4", "steps": 4}]
    assert asked.axes["trainer"] == ["gradient", {"name": "emsa", "rho": 2}]
    assert asked.budget() == ("seconds", 5) and asked.seeds() == [4, 7] and "retry" in asked.flags
    assert compare_arguments(["--learning_rate", "1e-3,1e-2"]).axes == {"learning_rate": [1e-3, 1e-2]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sovler euler", "Did you mean 'solver'"),
        ("euler", "expected --axis"),
        ("--solver", "needs a value"),
        ("--solver euler --epochs 1 --seconds 2 --seconds", "needs a value"),
        ("--solver euler --seeds x", "expected a whole number or a list"),
        ("--solver euler --seeds 0", "expected 1 to 1000"),
        ("--solver euler --seeds 1000000000", "expected 1 to 1000"),
        ("--solver euler --workers 0", "at least 1"),
        ("--solver euler --executor slurm", "expected local or ray"),
        ("--epochs 1", "there is no axis"),
        ("--config none.yaml --solver euler", "cannot be read"),
        ("--retry=1 --solver euler", "takes no value"),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, message, capsys):
    assert main(["compare", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_plan_is_told_and_nothing_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status = main(["compare", "--data", "{name: two_moons, n: 40}", "--solver", "euler,verlet", "--plan"])
    assert status == 0 and "combinations x seeds: 1 x 3 = 3 cells" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("well", "status"), [(0, 1), (1, 0)])
def test_a_comparison_in_which_no_cell_ends_well_has_status_1(well, status, tmp_path, monkeypatch, capsys):
    rows = [Row({"solver": "euler"}, "failed", failed=3), Row({"solver": "rk4"}, "partly", seeds=well, failed=3 - well)]
    monkeypatch.setattr(command, "compare", lambda *arguments: rows)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--data", "two_moons", "--solver", "euler,rk4"]) == status
    assert ("no cell has ended well" in capsys.readouterr().err) == bool(status)


COMMAND = [
    *(sys.executable, "-m", "odeframe", "compare", "--data", "{name: two_moons, n: 40}", "--seeds", "3"),
    *("--solver", "euler,heun,dopri5", "--architecture", "{name: resnet, width: 4, blocks: 2}", "--epochs", "2"),
]


def records(folder):
    return {path.stem: path.stat().st_mtime_ns for path in (folder / "cells").glob("*.json")}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_half_way_it_finishes_on_the_second_start(tmp_path):
    """By SIGKILL; the same line goes on in the folder of the first, and runs no finished cell again."""
    first = subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not (started := list(tmp_path.glob("runs/*/cells"))) or len(records(started[0].parent)) < 3:
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (folder,) = (tmp_path / "runs").iterdir()
    time.sleep(1.0)  # the cell that ran ends with its parent
    before = records(folder)
    assert 3 <= len(before) < 9
    done = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 9 cells are in" in done.stdout
    after = records(folder)
    assert len(after) == 9 and before.items() <= after.items()
    with (folder / "results.csv").open(newline="") as file:
        assert [(line["status"], line["seeds"]) for line in csv.DictReader(file)] == [("done", "3")] * 3


PLUGIN = '''
import os, signal, time
import odeframe
from odeframe.task import Task
from odeframe_plugins.solvers.explicit import Euler


class Broken(Euler):
    """Euler's method that ends its process, never ends, raises, or blows up."""

    def __init__(self, how: str = "kill", steps: int | None = None) -> None:
        super().__init__(steps)
        self.how = how

    def step(self, field, t, dt, x, memory):
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "sleep":
            time.sleep(600)
        if self.how == "raise":
            raise ZeroDivisionError("as it was told")
        if self.how == "refuse":
            raise odeframe.Incompatible("as it was told")
        return x * float("inf"), ()


@odeframe.hookimpl
def odeframe_solvers():
    return {"broken": odeframe.Part("broken_plugin:Broken", traits=("step",))}
'''


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cell_that_fails_is_a_row_with_its_reason(tmp_path):
    """A crash, a hang, an error and a blow-up each lose one cell, and no other."""
    (tmp_path / "broken_plugin.py").write_text(PLUGIN)
    meta = tmp_path / "broken_plugin-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[odeframe]\nbroken = broken_plugin\n")
    broken = [f"{{name: broken, how: {how}}}" for how in ("kill", "sleep", "raise", "refuse", "blow")]
    command = [sys.executable, "-m", "odeframe", "compare", "--data", "{name: two_moons, n: 40}", "--epochs", "2"]
    command += ["--architecture", "{name: resnet, width: 4, blocks: 2}", "--solver", ",".join([*broken, "euler"])]
    command += ["--seeds", "1", "--limit", "30", "--workers", "3"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "--output", "out"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    reasons = [line["reason"] for line in lines]
    assert [line["status"] for line in lines] == ["failed", "failed", "failed", "illegal", "failed", "done"]
    assert reasons[0] == "the process was ended by SIGKILL"
    assert reasons[1] == "ended after the limit of 30 s"
    assert reasons[2] == "ZeroDivisionError: as it was told"
    assert reasons[4].startswith("SolveFailed") and lines[4]["solver_status"] == "NON_FINITE"
    logs = list((tmp_path / "out" / "cells").glob("*.log"))
    assert any("ZeroDivisionError" in log.read_text() for log in logs), "the traceback is kept"


@pytest.mark.slow
@pytest.mark.parametrize("budget", [Budget("evaluations", 40), Budget("seconds", 0.5), Budget("epochs", 3)], ids=str)
def test_budget_is_kept(budget, tmp_path):
    from odeframe.comparison.cell import measure

    words = {"data": MOONS, "architecture": {"name": "resnet", "width": 4, "blocks": 2}, "solver": "euler"}
    found = measure(Cell(words, 0, budget, "cpu"))
    assert found["evaluations_forward"] == found["evaluations_backward"] == 2
    if budget.unit == "evaluations":
        assert found["evaluations"] == 40 and found["batches"] == 10
    elif budget.unit == "epochs":
        assert found["epochs"] == 3 and len(found["curves"]["val_accuracy"]) == 3
    assert found["batches"] >= 1 and found["solver_status"] == "SUCCESS"
    module = odeframe.compose(**words).module
    assert found["parameters"] == sum(parameter.numel() for parameter in module.parameters())
    assert found["versions"]["odeframe"] == odeframe.__version__


def test_illegal_at_build_time_is_told_as_such():
    from odeframe.comparison.cell import failure

    assert failure(Incompatible("a. A solver that fits b: c"))["reason"] == "Incompatible: a."
    assert failure(Incompatible("a"))["status"] == "illegal"
    assert failure(ValueError())["reason"] == "ValueError: no message"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_cells_run_on_a_local_ray(tmp_path):
    from odeframe.comparison.ray_executor import RayExecutor

    axes = {"data": [MOONS], "solver": ["euler"], "architecture": [{"name": "resnet", "width": 4}]}
    plan = Plan(axes, [0, 1], EPOCH, "cpu")
    rows = compare(plan, tmp_path / "ray", RayExecutor(workers=2))
    assert rows[0].status == "done" and rows[0].seeds == 2, rows[0].reasons
    local = compare(plan, tmp_path / "local", LocalExecutor(2))
    assert local[0].metrics["loss"].value == pytest.approx(rows[0].metrics["loss"].value, rel=1e-6)


def test_ray_that_is_not_there_says_what_to_install(monkeypatch):
    import importlib.util

    from odeframe.comparison.ray_executor import RayExecutor

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnknownComponent, match=r"pip install odeframe\[ray\]"):
        RayExecutor()
