"""A Hamiltonian network of 1,000 layers in the memory of one of 10: bytes of a training step, as a table in Markdown.

    python -m benchmarks.depth [--write docs/parts/memory.md]

Each row is a process of its own that takes two training steps with Adam.  Activations are the most bytes that autograd
kept at a time in the second one, forward and backward, parameters apart; the peak of the process (``VmHWM``) is what
the second step added to the resident memory before it, with all that torch needs besides.  Parameters count with their
gradients and Adam's two moments.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

import odeframe
from benchmarks.page import put
from odeframe import DataSpec
from odeframe.module import FlowModule
from odeframe.testing.live import LiveBytes

MARKS = ("<!-- table: python -m benchmarks.depth -->", "<!-- end of table of depth -->")
ROWS = tuple(
    (layers, control, gradient)
    for control in ("constant", "piecewise_constant")
    for gradient, depths in (("backprop", (10, 100)), ("checkpoint", (10, 1000)), ("reversible", (10, 1000)))
    for layers in depths
)
WIDTH, BATCH = 32, 1024
SPEC = DataSpec("random", (16,), "value", None, (2,), "regression")


def resident(field: str) -> int:
    """Bytes of a line of the process's status, Linux."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def measure(layers: int, control: str, gradient: str, out: Connection) -> None:
    """Sends activations, what the second step added to the process, and bytes of the parameters."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    words: dict[str, Any] = {"control": control, "gradient": gradient}
    architecture = {"name": "hamiltonian", "width": WIDTH, "blocks": layers, "step": 10 / layers}
    module = FlowModule(SPEC.to_dict(), architecture, **words)
    network, data = module.network, (torch.randn(BATCH, 16), torch.randn(BATCH, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    peak = added = 0
    for _ in range(2):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is the present now
        before = resident("VmRSS")
        with LiveBytes(network.parameters()) as live:
            optimizer.zero_grad(set_to_none=False)
            torch.nn.functional.mse_loss(network(data[0]), data[1]).backward()
            optimizer.step()
        peak, added = live.peak, resident("VmHWM") - before
    out.send((peak, added, 4 * sum(p.nbytes for p in network.parameters())))


def table() -> list[str]:
    """A row for each depth, control and gradient."""
    lines = ["| weights | gradient | layers | activations | process | parameters, gradients, Adam |", "|---" * 6 + "|"]
    os.environ["MALLOC_MMAP_THRESHOLD_"] = (
        "65536"  # large tensors go back when freed: the peak is theirs, not the heap's
    )
    context = mp.get_context("spawn")
    for layers, control, gradient in ROWS:
        here, there = context.Pipe()
        process = context.Process(target=measure, args=(layers, control, gradient, there))
        process.start()
        live, added, parameters = here.recv()
        process.join()
        sizes = [f"{live / 1e6:.1f} MB", f"{added / 1e6:.1f} MB", f"{parameters / 1e6:.2f} MB"]
        weights = "one set" if control == "constant" else "of each layer"
        lines.append(f"| {weights} | `{gradient}` | {layers} | {' | '.join(sizes)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Prints the table, or puts it between the marks of a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, help="a Markdown file with the marks of the table")
    target = parser.parse_args().write
    torch.set_num_threads(1)
    text = "\n".join(table())
    print(f"odeframe {odeframe.__version__}, torch {torch.__version__}\n\n{text}")
    if target is not None:
        put(target, MARKS, text)


if __name__ == "__main__":
    main()
