"""A flow is a module: put it between two layers of an nn.Sequential and train as ever.

Handwritten digits, 8 x 8 pixels, with the same block twice: as a residual network of 6 layers (Euler, a block a step)
and as an ordinary differential equation (adaptive steps, one block for all depths).
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import odeframe


def accuracy_of(flow, train, test):
    """Trains stem, flow and head by Adam on the cross-entropy; the fraction of test digits that are right."""
    network = nn.Sequential(nn.Linear(64, 16), flow, nn.Linear(16, 10))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(train[0]), train[1]).backward()
        optimiser.step()
    with torch.no_grad():
        return (network(test[0]).argmax(1) == test[1]).float().mean().item()


def main():
    """Both flows by changing two words."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 8 - 1, labels, test_size=0.2, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = map(torch.as_tensor, parts)
    train, test = (train_x.float(), train_y), (test_x.float(), test_y)

    def block():
        return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))

    flows = {
        "residual network": odeframe.Flow(block(), "piecewise_constant", {"name": "euler", "steps": 6}),
        "neural ODE": odeframe.Flow(block(), "constant", {"name": "dopri5", "rtol": 1e-3}),
    }
    for name, flow in flows.items():
        accuracy = accuracy_of(flow, train, test)
        print(f"{name:16s} accuracy {accuracy:.3f} on {len(test_y)} digits, {flow.stats.nfe} evaluations of the block")


if __name__ == "__main__":
    main()
