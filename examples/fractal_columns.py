"""A fractal network trained with drop-path: every column alone is a classifier, to be taken at any depth.

Three columns of 1, 2 and 4 blocks a step, two steps, on the digits of scikit-learn.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from odeframe import Flow


def main():
    """Test accuracy of all columns together and of each one alone, with the blocks that it uses."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    solver = {"name": "fractal", "columns": 3, "steps": 2, "drop_path": "mixed"}
    flow = Flow({"name": "mlp", "width": 32, "preactivate": True}, "piecewise_constant", solver, horizon=(0.0, 2.0))
    model = nn.Sequential(nn.Linear(64, 32), flow, nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(5):
        for batch in torch.randperm(1400).split(100):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()
    for column in (None, 0, 1, 2):
        flow.solver.column = column
        with torch.no_grad():
            accuracy = (model(images[1400:]).argmax(1) == labels[1400:]).float().mean()
        name = "all columns" if column is None else f"column {column} alone"
        print(f"{name:14}: {flow.stats.nfe:2} blocks, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
