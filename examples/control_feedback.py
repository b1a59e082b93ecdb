"""Open loop against closed loop: a plan for the mean state, and a policy that sees the state.

x' = u drives samples to 0 at the cost x(1)^2 + int u^2 / 4 dt. The best plan u(t) is the same for all samples; the best
feedback is u = K(t) x with the Riccati gain K(t) = -4 P(t), P' = 4 P^2, P(1) = 1.
"""

import torch
from torch import nn

from odeframe import Dynamics, Flow
from odeframe.quadrature import Quadrature


class Integrator(Dynamics):
    """x' = v + u: an open-loop control drives the parameter v, a feedback the input u."""

    control_size = 1

    def __init__(self):
        super().__init__()
        self.v = nn.Parameter(torch.zeros(1))

    def forward(self, t, x, u=None):
        return self.v.expand_as(x) if u is None else self.v + u


class Effort(Quadrature):
    """int |x'|^2 / 4 dt; here x' is the control."""

    name, weight = "effort", 1.0

    def rate(self, t, x, dx):
        return 0.25 * dx.square().sum(1)


def train(control):
    """The mean cost after L-BFGS, from starts 1 + N(0, 1)."""
    torch.manual_seed(0)
    flow = Flow(Integrator(), control, {"name": "rk4", "steps": 8}, quadratures=[Effort()]).double()
    x0 = 1 + torch.randn(500, 1, dtype=torch.float64)
    x0 = 1 + (x0 - x0.mean()) / x0.std(correction=0)
    optimizer = torch.optim.LBFGS(flow.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        solution = flow.solve(x0)
        cost = (solution.final.square().sum(1) + flow.running_cost(solution)).mean()
        cost.backward()
        return cost

    optimizer.step(closure)
    return closure().item(), flow


gains = {"name": "piecewise_linear", "pieces": 8}
plan, _ = train({"name": "piecewise_constant", "pieces": 8, "init": "copy"})
policy, flow = train({"name": "feedback", "hidden": 0, "width": 1, "gains": gains})
# P(0) = 1 / (1 + 4) = 0.2; the plan cannot see the spread: 0.2 E[x]^2 + Var x
print(f"open loop {plan:.4f} (closed form 1.2000), feedback {policy:.4f} (closed form 0.4000)")
