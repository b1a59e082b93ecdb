"""Every control in every family of networks, on digits.

    python -m benchmarks.controls_digits [--write docs/parts/controls.md]

fits what its file of finished cells lacks, so that it goes on after any stop, and makes the table from it.  A fit is
small: a network of one flow, a minute at most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import odeframe
from benchmarks.page import put
from odeframe.module import FlowModule

REACHED = 0.95
BATCH, RATE = 32, 5e-3
MARKS = ("<!-- controls_digits: begin -->", "<!-- controls_digits: end -->")
PIECES = "piecewise_constant"
CONTROLS: dict[str, Any] = {
    **{name: name for name in ("constant", PIECES, "piecewise_linear", "galerkin", "hypernetwork", "time_concat")},
    **{name: name for name in ("feedback", "feedback_summary")},
    **{name: {"name": name, "of": PIECES} for name in ("binary", "ternary", "box", "antisymmetric", "spectral_norm")},
}
SMALL = {"width": 12, "blocks": 2}
RK4 = {"name": "rk4", "steps": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    **{name: {"architecture": SMALL} for name in ("resnet", "hamiltonian", "lm_resnet", "parabolic", "antisymmetric")},
    "antisymmetric_rnn": {"data": {"name": "digits_rows", "per_step": 8}, "architecture": {"step": 0.5}, "rounds": 5},
    "neural_ode": {"architecture": {"width": 12}, "solver": {"name": "dopri5", "rtol": 1e-2, "atol": 1e-2}},
    **{name: {"architecture": SMALL} for name in ("midpoint", "imexnet", "stochastic_depth")},
    "polynet": {"architecture": {**SMALL, "step": 0.5}},
    "second_order_ode": {"architecture": {"width": 12}, "solver": RK4},
    **{name: {"architecture": SMALL} for name in ("revnet", "hyperbolic", "leapfrog")},
    "augmented_neural_ode": {"architecture": {"hidden": 16}, "solver": RK4},
    "fractalnet": {"architecture": {**SMALL, "columns": 2}},
}
"""A family by the architecture that stands for it, with what makes it small."""
ROUNDS, STOP, LONGER = (6, 12), 0.955, 24
"""Epochs of a fit; a longer one is made where the first did not reach ``STOP`` on the validation images.  What is then
below ``REACHED`` is fitted once more for ``LONGER`` epochs, with the same seed, and the table says both."""


def words(family: str, control: str) -> dict[str, Any]:
    """What ``odeframe.compose`` takes."""
    given = {kind: word for kind, word in FAMILIES[family].items() if kind != "rounds"}
    made = {"data": "digits", **given, "architecture": {"name": family, **given["architecture"]}}
    return {**made, "control": CONTROLS[control]}


def accuracy(module: FlowModule, split: Sequence[Tensor]) -> float:
    """The share of the images that are told right."""
    module.eval()
    with torch.no_grad():
        return float((module(split[0]).argmax(1) == split[1]).double().mean())


def trained(family: str, control: str, epochs: int, seed: int) -> dict[str, Any]:
    """Accuracies after a fit by Adam with one cycle of its rate, parameters, and seconds of the processor."""
    torch.manual_seed(seed)
    run = odeframe.compose(**words(family, control))
    module, data = run.module, {split: run.data.dataset(split)[:] for split in ("train", "val", "test")}  # type: ignore[attr-defined]
    x, y = data["train"]
    batches = len(x) // BATCH
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs * batches)
    project = [flow.control.project for flow in module.network.flows if hasattr(flow.control, "project")]
    start = time.process_time()
    module.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x))[: batches * BATCH].split(BATCH):
            optimizer.zero_grad()
            module.objective((x[chosen], y[chosen])).loss.backward()
            optimizer.step()
            schedule.step()
            for each in project:
                each()
    seconds = time.process_time() - start
    found = {split: accuracy(module, data[split]) for split in ("val", "test")}
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {**found, "parameters": parameters, "seconds": seconds, "epochs": epochs}


def cell(family: str, control: str) -> dict[str, Any]:
    """What the last round of fits measured, or why there is none."""
    try:
        odeframe.compose(**words(family, control))
    except odeframe.OdeframeError as error:
        return {"refused": str(error).split(". ")[0]}
    for epochs in ROUNDS:
        found = trained(family, control, epochs * FAMILIES[family].get("rounds", 1), seed=0)
        if found["val"] >= STOP:
            break
    if found["test"] < REACHED:
        found["longer"] = trained(family, control, LONGER * FAMILIES[family].get("rounds", 1), seed=0)
    return found


def table(cells: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """Test accuracies, a row a control and a column a family; below it what was refused."""
    families = [family for family in FAMILIES if any(family == each for each, _ in cells)]
    lines = [
        "| control | " + " | ".join(f"`{family}`" for family in families) + " |",
        "|---" * (len(families) + 1) + "|",
    ]
    for control in CONTROLS:
        row = [_shown(cells.get((family, control))) for family in families]
        lines.append(f"| {control} | " + " | ".join(row) + " |")
    fits = [each for each in cells.values() if "test" in each]
    low = [f"`{family}` with {name} {_best(each):.3f}" for (family, name), each in cells.items() if _missed(each)]
    again = [
        f"`{family}` with {name} {each['test']:.3f} after {each['epochs']}, {_best(each):.3f} after "
        f"{each['longer']['epochs']}"
        for (family, name), each in cells.items()
        if "longer" in each
    ]
    refused = [
        f"- `{family}` with {name}: {each['refused']}" for (family, name), each in cells.items() if "refused" in each
    ]
    lines += ["", f"{len(fits)} fits of {min(each['seconds'] for each in fits):.0f} to "]
    lines[-1] += (
        f"{max(each['seconds'] for each in fits):.0f} s of the processor; {len(fits) - len(low)} reach {REACHED}"
    )
    lines[-1] += f", {len(low)} do not: {', '.join(low)}." if low else "."
    if again:
        lines += ["", f"With a star, below {REACHED} at first and fitted for more epochs: {'; '.join(again)}."]
    return [*lines, *(["", "Refused:", "", *refused] if refused else [])]


def _best(found: dict[str, Any]) -> float:
    """The accuracy of the longest fit."""
    return float(found.get("longer", found)["test"])


def _missed(found: dict[str, Any]) -> bool:
    return "test" in found and _best(found) < REACHED


def _shown(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not run"
    if "refused" in found:
        return "refused"
    shown = f"{_best(found):.3f}" + ("*" if "longer" in found else "")
    return f"**{shown}**" if _missed(found) else shown


def main() -> None:
    """Fits what is missing, prints the table, or puts it between the marks of a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--cells", type=Path, default=Path("runs/controls_digits"), help="a file a cell that is done")
    parser.add_argument("--table", action="store_true", help="fit nothing")
    parser.add_argument("--write", type=Path, help="a Markdown file with the marks of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options.cells.mkdir(parents=True, exist_ok=True)
    cells = {}
    for family, control in itertools.product(FAMILIES, CONTROLS):
        path = options.cells / f"{family}-{control}.json"
        if not path.exists() and family in options.families and not options.table:
            path.write_text(json.dumps(cell(family, control)), "utf-8")
            print(family, control, path.read_text("utf-8"), flush=True)
        if path.exists():
            cells[family, control] = json.loads(path.read_text("utf-8"))
    lines = table(cells)
    print("", *lines, sep="\n")
    if options.write is not None:
        put(options.write, MARKS, "\n".join(lines))


if __name__ == "__main__":
    main()
