"""Every example runs on its own and prints something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


def test_examples_are_found():
    assert EXAMPLES, "no examples/*.py"


QUICK = ("write_a_solver",)
MARKED = [pytest.param(p, marks=[] if p.stem in QUICK else [pytest.mark.slow]) for p in EXAMPLES]


@pytest.mark.parametrize("path", MARKED, ids=lambda path: path.stem)
def test_example_runs_and_prints(path, tmp_path):
    environment = {**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:__main__"}
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), f"{path.name} prints nothing"
