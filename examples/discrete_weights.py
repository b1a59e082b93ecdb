"""Weights of two and three values without real ones underneath, and the file that they fit in.

The network is trained by flips alone; its export takes one or two bits a weight and predicts the same.
"""

import logging
import tempfile
from pathlib import Path

import torch

import odeframe
from odeframe import packing

logging.disable(logging.INFO)  # what Lightning says of devices
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


def main():
    """Digits, a residual network of width 128, five epochs."""
    for levels in ("binary", "ternary"):
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            run = odeframe.compose(
                {"name": "resnet", "width": 128, "blocks": 2},
                data={"name": "digits", "flat": True},
                trainer={"name": "discrete_msa", "levels": levels, "stages": ["stem", "flow1"]},
                output=folder,
            )
            run.fit(max_epochs=5, enable_checkpointing=False, **QUIET)
            found = run.test(**QUIET)
            path = packing.export(run.module, Path(folder) / "packed.pt")
            x = next(iter(run.data.test_dataloader()))[0]
            same = torch.equal(packing.load(path)(x), run.module.eval()(x))
            whole = 4 * sum(p.numel() for p in run.module.parameters())
            share = found.get("test_nonzero", 1.0)
            print(
                f"{levels:7}: accuracy {found['test_accuracy']:.3f}, nonzero {share:.2f}, file {path.stat().st_size:,} "
                f"bytes, 1/{whole / path.stat().st_size:.0f} of float32, predicts the same: {same}"
            )


if __name__ == "__main__":
    main()
