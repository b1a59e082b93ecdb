"""A column of a fractal network, taken out as a plain residual network: fewer blocks, the same classifier.

Trained on digits with drop-path; the columns have 1, 2 and 4 blocks where the whole has 7.
"""

import logging
import tempfile
import warnings

import torch

import odeframe
from odeframe_plugins.architectures.fractalnet import column


def main():
    """Accuracy, blocks and parameters of the whole and of each column."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        data = {"name": "digits", "flat": True}
        run = odeframe.compose(architecture={"name": "fractalnet", "width": 32}, data=data, output=folder)
        run.fit(max_epochs=8, enable_progress_bar=False, logger=False, enable_checkpointing=False)
    run.data.setup("test")
    x, y = (torch.cat(part) for part in zip(*run.data.test_dataloader(), strict=True))
    whole = run.module.eval().network
    for name, network in (("all", whole), *((f"column {j}", column(whole, j)) for j in range(3))):
        with torch.no_grad():
            accuracy = float((network(x).argmax(1) == y).float().mean())
        size = sum(parameter.numel() for parameter in network.parameters())
        print(f"{name:8}: {network.stats.nfe} blocks, {size:6,} parameters, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
