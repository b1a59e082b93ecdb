"""How long ``odeframe plugins list`` takes where many packages of plugins are installed.

python -m benchmarks.plugins_list --packages 50

writes packages by ``odeframe plugins new``, a kind after the other, with the metadata that an installation leaves, into
a folder that is on the path of the command.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from odeframe.hookspecs import KINDS
from odeframe.scaffold import new_package


def installed(folder: Path, number: int) -> None:
    """Puts so many packages there, each with a part of its own."""
    for index in range(number):
        name = f"measured_{index}"
        new_package(name, KINDS[index % len(KINDS)], folder / "sources" / name)
        (folder / "sources" / name / name).rename(folder / name)
        metadata = folder / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
        (metadata / "entry_points.txt").write_text(f"[odeframe]\n{name} = {name}\n", "utf-8")


def seconds(folder: Path, number: int) -> tuple[float, float]:
    """Wall-clock and processor seconds of one call, whose table has to have all of them."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its bytecode
    begin, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "odeframe", "plugins", "list"], env=environment, capture_output=True, text=True
    )
    wall, after = time.perf_counter() - begin, os.times()
    if done.returncode or sum(f"measured_{index}" in done.stdout for index in range(number)) < number:
        raise RuntimeError(f"the list is not whole: {done.stdout}{done.stderr}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def main() -> None:
    """Prints medians over the calls; the first, which compiles to bytecode, is left out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packages", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=9)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        installed(folder, chosen.packages)
        found = [seconds(folder, chosen.packages) for _ in range(chosen.repeats + 1)][1:]
    wall, used = (statistics.median(each) for each in zip(*found, strict=True))
    print(f"{chosen.packages} packages: {wall:.2f} s by the clock, {used:.2f} s of the processor")


if __name__ == "__main__":
    main()
