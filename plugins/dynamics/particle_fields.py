"""Velocities of particles that see an observation and a summary of where the particles started."""

from __future__ import annotations

import itertools
from typing import ClassVar

import torch
from torch import Tensor, nn

from odeframe import Dynamics, InvalidOption
from odeframe.errors import Incompatible
from odeframe_plugins.dynamics.activations import activation as named_activation

START = 0.1  # of a linear layer's usual draw: at first particles hardly move


class AffineParticleField(Dynamics):
    """``f(t, x; c) = A(t, c) x + b(t, c)`` with a perceptron ``(A, b)`` of time and context.

    The exact velocity of a normal distribution that becomes another one is of this form.

    Args:
        width: components of a particle, ``x`` ``(batch, ..., width)``.
        inputs: components of the context ``c`` ``(batch, inputs)``, which comes as the drive.
        hidden: size of the two hidden layers of the perceptron.

    Source: Chen, Dai, Song 2019, Particle Flow Bayes' Rule, section 4, restricted to affine maps.
    """

    traits: ClassVar[tuple[str, ...]] = ("driven", "particles")

    def __init__(self, width: int, inputs: int, hidden: int = 64) -> None:
        super().__init__()
        for option, value in (("width", width), ("inputs", inputs), ("hidden", hidden)):
            if value < 1:
                raise InvalidOption(f"dynamics 'affine_particle_field': option {option}: got {value}, expected >= 1")
        self.width = width
        self.inner = nn.Sequential(nn.Linear(inputs + 1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.outer = nn.Linear(hidden, width * (width + 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the layers, the last one small."""
        for layer in (*self.inner, self.outer):
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        with torch.no_grad():
            self.outer.weight.mul_(START)
            self.outer.bias.zero_()

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None, drive: Tensor | None = None) -> Tensor:
        """``dx/dt``, ``(batch, ..., width)``."""
        context = _context(drive, "affine_particle_field")
        made = self.outer(self.inner(torch.cat([context, _time(t, context)], dim=1)))
        matrix, shift = made.split([self.width * self.width, self.width], dim=1)
        rows = x.reshape(x.shape[0], -1, self.width) if x.shape[0] else x.reshape(0, 1, self.width)
        moved = rows @ matrix.reshape(-1, self.width, self.width).transpose(1, 2) + shift[:, None]
        return moved.reshape(x.shape) if x.shape[0] else x


class ParticleField(Dynamics):
    """An affine field, and a perceptron whose layers are gated by the time and see the context.

    ``h <- act((W h + V c + b) * sigmoid(w_g t + b_g) + w_t t)``, ``depth`` times from ``h = x``, then a linear layer;
    the context ``c`` enters every layer.  The affine part is what updates of normal distributions need, so that the
    perceptron is left with what is not normal.

    Args:
        width: components of a particle, ``x`` ``(batch, ..., width)``.
        inputs: components of the context ``c`` ``(batch, inputs)``, which comes as the drive.
        hidden: size of the hidden layers.
        depth: how many.
        activation: as for ``mlp``; smooth, since a density is the integral of a derivative.

    Source: Chen, Dai, Song 2019, Particle Flow Bayes' Rule, section 4; the gates of Grathwohl et al. 2019, FFJORD, B.1.
        The affine part is an addition.
    """

    traits: ClassVar[tuple[str, ...]] = ("driven", "particles")

    def __init__(self, width: int, inputs: int, hidden: int = 64, depth: int = 2, activation: str = "tanh") -> None:
        super().__init__()
        if depth < 1:
            raise InvalidOption(f"dynamics 'particle_field': option depth: got {depth}, expected at least 1")
        self.affine = AffineParticleField(width, inputs, hidden)
        sizes = [width, *[hidden] * depth]
        self.layers = nn.ModuleList(ContextLayer(a, b, inputs) for a, b in itertools.pairwise(sizes))
        self.last = nn.Linear(hidden, width)
        self.activation = named_activation(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the last layer, small; the others draw themselves."""
        self.last.reset_parameters()
        with torch.no_grad():
            self.last.weight.mul_(START)
            self.last.bias.zero_()

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None, drive: Tensor | None = None) -> Tensor:
        """``dx/dt``, ``(batch, ..., width)``."""
        context = _context(drive, "particle_field")
        time, h = _time(t, context), x
        for layer in self.layers:
            h = self.activation(layer(time, h, context))
        return self.affine(t, x, drive=context) + self.last(h)


class ContextLayer(nn.Module):
    """``(W x + V c + b) * sigmoid(w_g t + b_g) + w_t t``, ``(batch, ..., inputs)`` to ``(batch, ..., outputs)``."""

    def __init__(self, inputs: int, outputs: int, context: int) -> None:
        super().__init__()
        self.linear, self.context = nn.Linear(inputs, outputs), nn.Linear(context, outputs, bias=False)
        self.gate, self.shift = nn.Linear(1, outputs), nn.Linear(1, outputs, bias=False)

    def forward(self, time: Tensor, x: Tensor, context: Tensor) -> Tensor:
        """Times ``(batch, 1)``, contexts ``(batch, context)``."""
        shape = (x.shape[0], *[1] * (x.dim() - 2), self.linear.out_features)
        gate, shift = torch.sigmoid(self.gate(time)), self.shift(time)
        return (self.linear(x) + self.context(context).reshape(shape)) * gate.reshape(shape) + shift.reshape(shape)


def _context(drive: Tensor | None, name: str) -> Tensor:
    if drive is None:
        raise Incompatible(
            f"dynamics {name!r} are moved by an observation, which architecture 'particle_flow' gives them; from "
            "Python, flow(x, drive=context) with context (batch, inputs)"
        )
    return drive


def _time(t: Tensor, context: Tensor) -> Tensor:
    """``(batch, 1)`` of a time 0-d or ``(batch,)``."""
    return t.to(context).reshape(-1, 1).expand(context.shape[0], 1)
