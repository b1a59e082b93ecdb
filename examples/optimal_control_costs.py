"""Costs by words, on any task: kinetic energy straightens the paths, smoothness draws neighbouring layers together.

`odeframe fit --model.costs.control_smoothness=0.03 ...` and `costs: {control_smoothness: 0.03}` in YAML say the same.
"""

import torch

import odeframe
from odeframe.costs import ControlSmoothness

x, y = odeframe.build("data", "two_moons").dataset("train")[:]
for costs in ({}, {"kinetic_energy": 0.03}, {"control_smoothness": 0.003}):
    torch.manual_seed(0)
    module = odeframe.compose({"name": "resnet", "width": 8, "blocks": 6}, "two_moons", costs=costs).module
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        module.objective((x, y)).loss.backward()
        optimizer.step()
    (flow,) = module.network.flows
    with torch.no_grad():
        start = module.network.stages["stem"](x)
        states = flow.solve(start, list(range(7))).states
        length = states.diff(dim=0).norm(dim=2).sum(0).mean()  # of a path through the layers
        accuracy = (module(x).argmax(1) == y).float().mean()
        jumps = ControlSmoothness()(flow.control)
    print(f"{costs!s:<30} accuracy {accuracy:.3f}, path length {length:5.2f}, sum of squared jumps {jumps:6.2f}")
