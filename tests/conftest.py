"""What all tests share: one thread, no window, reproducible property tests, a clear word without CUDA."""

import os
import sys

import pytest
from hypothesis import settings

# Read when torch is first imported, so no test pays for torch because of this file. One thread: runs are
# parallel already, and a process that forks after a backward with several threads leaves its child hanging.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# No deadline: a loaded machine is slow, not wrong. In CI the same examples every time: red means the change.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hold torch to one thread where something imported it before this file could set the environment."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked gpu where there is no CUDA device, and say why: ``make test-gpu`` lists the reasons."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device and torch sees none")
