"""A pendulum swings for 2,000 steps: symplectic schemes keep its energy, Euler's method and RK4 let it drift.

q' = p, p' = -sin q, with the energy H = p^2 / 2 - cos q. The last column undoes all steps again, where the scheme can.
"""

import torch

from odeframe import Flow, SeparableDynamics


class Pendulum(SeparableDynamics):
    """The halves of the state x = (q, p), each moved by the other."""

    def first(self, t, z, u=None):
        """q' = p."""
        return z

    def second(self, t, y, u=None):
        """p' = -sin q."""
        return -torch.sin(y)


def energy(x):
    """H, for states (..., 2)."""
    return x[..., 1].square() / 2 - torch.cos(x[..., 0])


def undone(flow, x):
    """The state from which the flow's last state came, by its reverse steps."""
    grid, field = flow.solver.grid(flow.field(), flow.times(None)), flow.field()
    for k in reversed(range(len(grid.spacing))):
        law = field.on(grid.nodes[k], grid.nodes[k + 1], k)
        x, _ = flow.solver.reverse_step(law, grid.nodes[k], grid.spacing[k], x, ())
    return x


def main():
    """The largest error of the energy in the first and in the second half of the time."""
    x0, steps, end = torch.tensor([[2.0, 0.0]], dtype=torch.float64), 2_000, 400.0
    print(f"{'solver':17} {'|H - H0|, t < 200':>18} {'t > 200':>9} {'start again':>12}")
    with torch.no_grad():
        for name in ("euler", "rk4", "symplectic_euler", "verlet", "yoshida4"):
            flow = Flow(Pendulum(), solver={"name": name, "steps": steps}, horizon=(0.0, end))
            states = flow.solve(x0, torch.linspace(0, end, steps + 1, dtype=torch.float64)).states
            drift = (energy(states) - energy(x0)).abs()
            halves = drift[: steps // 2].max(), drift[steps // 2 :].max()
            again = ""
            if "reversible" in flow.solver.traits:
                again = f"{(undone(flow, states[-1]) - x0).abs().max():.0e}"
            print(f"{name:17} {halves[0]:18.1e} {halves[1]:9.1e} {again:>12}")


if __name__ == "__main__":
    main()
