"""An event ends a flight, and its time has a gradient: how far a ball flies in five bounces, by its restitution."""

import torch

import odeframe

torch.set_default_dtype(torch.float64)
gravity, height = 9.81, 2.0
restitution = torch.tensor(0.8, requires_grad=True)
floor = odeframe.Event(lambda t, x: x[:, 0], direction="falling")


def ball(t, x):
    """dx/dt of (height, speed), batch first."""
    return torch.stack([x[:, 1], torch.full_like(x[:, 1], -gravity)], dim=1)


x, t = torch.tensor([[height, 0.0]]), torch.zeros(())
for _ in range(5):
    flight = odeframe.solve(ball, x, torch.stack([t, t.detach() + 10]), event=floor, rtol=1e-9)
    x = torch.stack([flight.final[:, 0], -restitution * flight.final[:, 1]], dim=1)
    t = flight.stop_times[0]

fall = (2 * height / gravity) ** 0.5
exact = fall * (1 + 2 * sum(restitution**k for k in range(1, 5)))
(found,), (wanted,) = (torch.autograd.grad(time, restitution, retain_graph=True) for time in (t, exact))
print(f"fifth landing at {t.item():.9f} s, by the formula {exact.item():.9f} s")
print(f"its derivative by the restitution {found.item():.6f}, by the formula {wanted.item():.6f}")
assert abs(t.item() - exact.item()) < 1e-8 and abs(found.item() - wanted.item()) < 1e-6
