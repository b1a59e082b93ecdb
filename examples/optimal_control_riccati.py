"""Optimal control proper: a plan from one start costs what Riccati says, by two words and L-BFGS.

The problem is x' = A x + B u with quadratic costs, an inverted pendulum about its upper rest; the input u(t) is a
piecewise-linear control. The residuals say that it is optimal without a look at its cost.
"""

import torch

import odeframe

torch.manual_seed(0)
run = odeframe.compose(
    {"name": "controlled_system", "steps": 12},
    {"name": "linear_quadratic", "spread": 0.0},
    control={"name": "piecewise_linear", "pieces": 6},
)
module = run.module.double()
x0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
optimizer = torch.optim.LBFGS(module.parameters(), max_iter=20, line_search_fn="strong_wolfe")


def closure():
    optimizer.zero_grad()
    loss = module.objective((x0,)).loss
    loss.backward()
    return loss


optimizer.step(closure)
(flow,) = module.network.flows
optimum = float(flow.dynamics.value(torch.tensor(0.0), x0))
metrics = module.task.metrics(module.spec)
with torch.no_grad():
    module.task.score(metrics, module.objective((x0,)).outcome, None)
found = {name: round(float(value), 5) for name, value in metrics.compute().items()}
print(f"Riccati {optimum:.5f}, plan {found.pop('cost'):.5f}; {found}")
