"""Systems with closed forms, for the tests of the numerical core; float64 unless said."""

import torch
from torch import nn

from odeframe import Dynamics
from odeframe.field import per_sample


class Rotation(Dynamics):
    """``x' = omega (x_2, -x_1)``: the norm is kept, ``x(t)`` is ``x(0)`` turned by ``-omega t``."""

    def __init__(self, omega=1.3):
        super().__init__()
        self.omega = nn.Parameter(torch.tensor(omega, dtype=torch.float64))

    def reset_parameters(self):
        nn.init.uniform_(self.omega, 0.5, 2.0)

    def forward(self, t, x, u=None):
        return self.omega.to(x.dtype) * torch.stack([x[:, 1], -x[:, 0]], dim=1)

    def exact(self, t, x0):
        c, s = torch.cos(self.omega.detach() * t), torch.sin(self.omega.detach() * t)
        return torch.stack([c * x0[:, 0] + s * x0[:, 1], c * x0[:, 1] - s * x0[:, 0]], dim=1)


class Logistic(Dynamics):
    """``x' = r cos(t) x (1 - x)``, solved by ``1 / (1 + (1 / x0 - 1) exp(-r sin t))``."""

    def __init__(self, rate=2.0):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def forward(self, t, x, u=None):
        return self.rate.to(x.dtype) * per_sample(torch.cos(t), x) * x * (1 - x)

    def exact(self, t, x0):
        return 1 / (1 + (1 / x0 - 1) * torch.exp(-self.rate * torch.sin(torch.as_tensor(t))))


class Linear(Dynamics):
    """``x' = A x``, solved by ``expm(A t) x0``."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(torch.as_tensor(matrix, dtype=torch.float64))

    def forward(self, t, x, u=None):
        return x @ self.matrix.to(x.dtype).T

    def exact(self, t, x0):
        return x0 @ torch.linalg.matrix_exp(self.matrix * t).T


class Driven(Dynamics):
    """``x' = -x + w(t)`` with the drive ``w`` ``(batch, width)``."""

    def forward(self, t, x, u=None, drive=None):
        return -x if drive is None else drive - x

    @staticmethod
    def exact(x0, items, horizon=1.0):
        """The state at the end where the drive is ``items`` ``(batch, length, width)``, held on equal intervals."""
        x, decay = x0, torch.exp(torch.tensor(-horizon / items.shape[1], dtype=torch.float64))
        for item in items.unbind(1):
            x = decay * x + (1 - decay) * item
        return x


def batch(*shape, seed=0, dtype=torch.float64):
    """Seeded normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
