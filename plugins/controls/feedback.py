"""Closed loop: a policy that sees the state chooses the control."""

from __future__ import annotations

import copy
import functools
import inspect
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe import Control, Incompatible, InvalidOption
from odeframe.block import Block
from odeframe.control import ControlLaw
from odeframe.dynamics import Autonomous, takes_keyword
from odeframe.field import merge_times
from odeframe.network import offer
from odeframe.registry import word
from odeframe_plugins.controls.layers import affine_layers, outputs

START = 0.1  # of a linear layer's usual draw: the policy nearly leaves the open-loop control alone at first


class Policy(nn.Module):
    """``u = pi(t, x)``, ``(batch, size)``; with ``hidden = 0`` the linear feedback ``u = K x + k``.

    Otherwise a perceptron of one hidden tanh layer on ``(x, s)``, ``s`` the share of the horizon that has passed.
    Images ``(batch, width, ...)`` are seen by the means of their channels.

    Args:
        width: size of the state along dimension 1.
        size: of ``u``.
        hidden: size of the inner layer.
        horizon: first and last time.
        summary: size of a summary of the whole batch that is seen too: the mean over the samples of a tanh layer.
    """

    def __init__(self, width: int, size: int, hidden: int, horizon: tuple[float, float], summary: int = 0) -> None:
        super().__init__()
        self.width, self.horizon = width, horizon
        self.embed = nn.Linear(width, summary) if summary else None
        seen = width + summary + (1 if hidden else 0)
        self.inner = nn.Linear(seen, hidden) if hidden else None
        self.outer = nn.Linear(hidden or seen, size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the layers, the last one small."""
        for layer in (self.embed, self.inner, self.outer):
            if layer is not None:
                layer.reset_parameters()
        with torch.no_grad():
            for parameter in self.outer.parameters():
                parameter.mul_(START)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``u`` of states ``(batch, width, ...)`` at times 0-d or ``(batch,)``."""
        seen = x.flatten(2).mean(2) if x.dim() > 2 else x
        if seen.dim() != 2 or seen.shape[1] != self.width:
            raise InvalidOption(
                f"control 'feedback': the policy is for states (batch, {self.width}, ...), got {tuple(x.shape)}; write "
                f"the size along dimension 1: {{name: feedback, width: {x.shape[1] if x.dim() > 1 else 1}}}"
            )
        parts = [seen]
        if self.embed is not None:
            summary = torch.tanh(self.embed(seen)).sum(0, keepdim=True) / max(len(seen), 1)
            parts.append(summary.expand(len(seen), -1))
        if self.inner is None:
            return self.outer(torch.cat(parts, dim=1))
        start, end = self.horizon
        parts.append(((t - start) / (end - start)).to(seen).reshape(-1, 1).expand(len(seen), 1))
        return self.outer(torch.tanh(self.inner(torch.cat(parts, dim=1))))


class Feedback(Control):
    """``dx/dt = f(t, x, theta(t), u)`` with ``u = pi(t, x)``, a policy for each sample.

    Dynamics that are steered by an input of ``size`` components get ``u`` ``(batch, size)`` as keyword ``u``.  For any
    other module the policy scales and shifts what each linear layer and convolution returns, sample by sample:
    ``y -> (1 + a) y + b`` with ``(a, b) = pi(t, x)``, ``a`` and ``b`` ``(batch, channels)``.

    The weights ``theta`` underneath are those of the open-loop control ``of``; the policy's own weights are driven by
    the control ``gains``: ``{name: feedback, hidden: 0, gains: {name: piecewise_linear, pieces: 8}}`` is the linear
    feedback ``u = K(t) x + k(t)`` of the linear-quadratic problem.

    Args:
        of: a word for the open-loop control.
        size: components of the input ``u``; default the dynamics' attribute ``control_size`` where they have one, and
            else the policy modulates layers.
        hidden: size of the policy's inner layer; 0 makes it linear in ``x``.
        gains: a word for the control of the policy's weights.
        width: size of the state along dimension 1; default what the architecture says, or the size of what the last
            layer returns.
        pieces: passed on to ``of``, where it takes it.

    Raises:
        Incompatible: the scheme asks for parts of the dynamics, which may not see the whole state.

    Source: Perez et al. 2018, FiLM: Visual Reasoning with a General Conditioning Layer; Li, E et al. 2018 on feedback;
        Kirk 1970, Optimal Control Theory, 3.12.
    """

    traits: ClassVar[tuple[str, ...]] = ("closed_loop",)
    summary: ClassVar[int] = 0

    def __init__(
        self,
        of: Any = "constant",
        size: int | None = None,
        hidden: int = 16,
        gains: Any = "constant",
        width: int | None = None,
        pieces: int | None = None,
    ) -> None:
        super().__init__()
        for option, value, least in (("size", size, 1), ("hidden", hidden, 0), ("width", width, 1)):
            if value is not None and value < least:
                raise InvalidOption(f"control 'feedback': option {option}: got {value}, expected at least {least}")
        self.of, self._size, self._hidden, self._width = of, size, hidden, width
        offered = {"pieces": pieces} if pieces is not None else {}
        self.open_loop: Control = offer(word("control", of), **offered)
        self.gains: Control = offer(word("control", gains), **offered)
        for option, control in (("of", self.open_loop), ("gains", self.gains)):
            if "closed_loop" in getattr(control, "traits", ()):
                raise InvalidOption(
                    f"control 'feedback': option {option} is an open-loop control, got another feedback"
                )
        inherited = getattr(self.open_loop, "traits", ())
        self.traits = tuple(dict.fromkeys((*type(self).traits, *inherited)))  # type: ignore[misc]

    def build(self, block: Block, steps: int | None) -> None:
        """Attaches the open-loop control, then makes the policy."""
        dynamics, layers = block.slots[0], affine_layers(block)
        size = self._size or getattr(dynamics, "control_size", None)
        plain = isinstance(dynamics, Autonomous)
        if size and (plain or not takes_keyword(dynamics, "u")):
            name = type(dynamics.module if plain else dynamics).__name__
            raise InvalidOption(
                f"control 'feedback': option size: got {size}, but {name} takes no input u; write "
                "forward(self, t, x, u=None), or leave out size to modulate its layers"
            )
        first = [name for name in layers if name.startswith("slots.0.")]
        if not size and not first:
            raise InvalidOption(
                f"control 'feedback': {type(dynamics).__name__} has no linear layer or convolution to modulate; write "
                "{name: feedback, size: 1} for dynamics that take an input u"
            )
        width = self._width or (outputs(layers[first[-1]]) if first else None)
        if width is None:
            raise InvalidOption(
                "control 'feedback': needs the size of the state along dimension 1: {name: feedback, width: 2}"
            )
        self._layers = [] if size else [name.removeprefix("slots.0.") for name in first]
        self._channels = [] if size else [outputs(layers[name]) for name in first]
        self.open_loop.attach(block, self.horizon, steps)
        policy = Policy(width, size or 2 * sum(self._channels), self._hidden, self.horizon, self.summary)
        parameter = next((p for p in self.open_loop.parameters()), None)
        self.gains.attach(Block(policy if parameter is None else policy.to(parameter)), self.horizon, steps)

    @property
    def block(self) -> Block:
        """That of the open-loop control."""
        return self.open_loop.block

    @property
    def pieces(self) -> int:
        """The parts of the horizon in which neither the open-loop control nor the gains jump."""
        return len(self.breakpoints()) + 1

    def breakpoints(self) -> tuple[float, ...]:
        """Those of the open-loop control and of the gains."""
        return merge_times((*self.open_loop.breakpoints(), *self.gains.breakpoints()))

    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """Both controls on an interval."""
        return FeedbackLaw(self.open_loop.on(t, t_next), self.gains.on(t, t_next), self._layers, self._channels)

    @property
    def refinable(self) -> bool:
        """Whether one of the two controls is."""
        return self.open_loop.refinable or self.gains.refinable

    def refine(self, factor: int) -> None:
        """Refines the open-loop control and the gains, each where it has pieces."""
        for control in self._in_pieces():
            control.refine(factor)

    def coarsen(self, factor: int) -> None:
        """Coarsens them, or neither: a rehearsal on copies raises before anything is changed."""
        controls = self._in_pieces()
        for control in controls[1:]:
            copy.deepcopy(control).coarsen(factor)
        for control in controls:
            control.coarsen(factor)

    def _in_pieces(self) -> list[Control]:
        both = [control for control in (self.open_loop, self.gains) if control.refinable]
        return both or [self.open_loop]  # which says that it has none

    def project(self) -> None:
        """Projects both controls."""
        self.open_loop.project()
        self.gains.project()


class FeedbackLaw(ControlLaw):
    """An open-loop law with an input, or with modulated layers.

    Args:
        inner: the open-loop law.
        policy: the law of the policy.
        layers: names of the modulated layers within the dynamics; none where the dynamics take ``u``.
        channels: what each of them returns along dimension 1.
    """

    def __init__(self, inner: ControlLaw, policy: ControlLaw, layers: list[str], channels: list[int]) -> None:
        self.inner, self.policy, self.block, self.num_slots = inner, policy, inner.block, inner.num_slots
        self._layers, self._channels = layers, channels

    @property
    def module(self) -> nn.Module:  # type: ignore[override]
        """The owners of the weights and of the policy."""
        return nn.ModuleList([self.inner.module, self.policy.module])

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Weights and policy."""
        return (*self.inner.tensors, *self.policy.tensors)

    def call(self, slot: int, method: str, *args: Any, **kwargs: Any) -> Any:
        """The dynamics of a slot under the policy."""
        if method != "forward" and (self._layers or not self._whole(slot, method)):
            raise Incompatible(
                f"the scheme asks for the part {method!r} of the dynamics, and the policy of a feedback sees the whole "
                "state; use a solver that treats it as one vector, e.g. solver='rk4', or an open-loop control"
            )
        t, x = args
        u = self.policy.call(0, "forward", t, x)
        if not self._layers:
            return self.inner.call(slot, method, t, x, u=u, **kwargs)
        target = self.block.slots[slot]
        pairs = iter(u.split([c for c in self._channels for _ in (0, 1)], dim=1))
        with ExitStack() as stack:
            for name in self._layers:
                hook = _modulate(next(pairs), next(pairs))
                stack.callback(target.get_submodule(name).register_forward_hook(hook).remove)
            return self.inner.call(slot, method, t, x, **kwargs)

    def parameters(self, t: Tensor) -> dict[str, Tensor]:
        """Those of the open-loop law, and those of the policy behind ``policy.``."""
        gains = self.policy.parameters(t)
        return {**self.inner.parameters(t), **{f"policy.{name}": value for name, value in gains.items()}}

    @property
    def steady(self) -> bool:  # type: ignore[override]
        """Whether both are."""
        return self.inner.steady and self.policy.steady

    def _whole(self, slot: int, method: str) -> bool:
        owner: Any = type(self.block.slots[slot])
        return _sees_state(owner, method)

    def stepper(self, solver: Any) -> Any:
        """The open-loop law's."""
        return self.inner.stepper(solver)


@functools.cache
def _sees_state(owner: Any, method: str) -> bool:
    """Whether a method of the dynamics is one of time, the whole state ``x`` and the input ``u``."""
    return {"t", "x", "u"} <= set(inspect.signature(getattr(owner, method)).parameters)


def _modulate(scale: Tensor, shift: Tensor) -> Any:
    """A hook ``y -> (1 + scale) y + shift``, both ``(batch, channels)``."""

    def hook(module: nn.Module, args: Any, y: Tensor) -> Tensor:
        if y.shape[0] != scale.shape[0]:
            raise Incompatible(
                f"control 'feedback': {type(module).__name__} returns {y.shape[0]} rows for a batch of {len(scale)}; "
                "the policy modulates layers that keep the batch dimension"
            )
        rest = [1] * (y.dim() - 2)  # a linear layer has its features last, a convolution along dimension 1
        shape = [len(y), *rest, scale.shape[1]] if isinstance(module, nn.Linear) else [len(y), scale.shape[1], *rest]
        return (1 + scale.reshape(shape)) * y + shift.reshape(shape)

    return hook
