"""What all dynamics must do, as a base class for pytest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from odeframe.dynamics import (
    BranchedDynamics,
    SecondOrderDynamics,
    SemilinearDynamics,
    SeparableDynamics,
    StochasticDynamics,
    as_dynamics,
    observed,
)
from odeframe.flow import Flow
from odeframe.network import offer
from odeframe.registry import word
from odeframe.testing.accuracy import largest
from odeframe.testing.conformance import Conformance, concerns, said

WIDTH, INPUTS = 4, 3
STATES = {"vector": (WIDTH,), "image": (WIDTH, 6, 6)}


class DynamicsConformance(Conformance):
    """Set ``dynamics`` to a word or a class; ``state_shape`` where no trait says what a state is.

    Attributes:
        dynamics: what is tested; options ``width`` and ``inputs`` are given by the kit, as an architecture gives them.
        state_shape: of one sample; by default the dynamics' own, or that of the trait ``vector`` or ``image``.
        optional: names of parameters that may stay without a gradient.
    """

    kind = "dynamics"
    interface = nn.Module
    dynamics: ClassVar[Any] = None
    state_shape: ClassVar[tuple[int, ...] | None] = None
    optional: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def make(cls, seed: int = 3, **options: Any) -> nn.Module:
        """Seeded dynamics in float64, called as ``f(t, x)``."""
        torch.manual_seed(seed)
        made = offer(word("dynamics", cls.choice()), width=WIDTH, inputs=INPUTS, **options)
        return as_dynamics(made).double()

    @staticmethod
    def implied_traits() -> Mapping[type, str]:
        """Interfaces with parts are found by these words."""
        return {
            SeparableDynamics: "separable",
            BranchedDynamics: "branched",
            SemilinearDynamics: "semilinear",
            StochasticDynamics: "stochastic_dynamics",
            SecondOrderDynamics: "second_order",
        }

    @classmethod
    def stated_traits(cls) -> set[str]:
        """What the class says; what a state is, the table alone says."""
        return set(getattr(cls.part, "traits", ())) | ((cls.declared_traits() or set()) & set(STATES))

    @classmethod
    def shape(cls) -> tuple[int, ...]:
        """The shape of one sample's state."""
        traits = cls.declared_traits() or set()
        own = cls.state_shape or getattr(cls.part, "state_shape", None)
        return own or next((shape for trait, shape in STATES.items() if trait in traits), STATES["vector"])

    def drive(self, x: Tensor) -> dict[str, Tensor]:
        """A constant drive for dynamics that are nothing without one."""
        if "driven" not in self.stated_traits():
            return {}
        generator = torch.Generator().manual_seed(2)
        return {"drive": torch.randn(x.shape[0], INPUTS, dtype=torch.float64, generator=generator).to(x.dtype)}

    def state(self, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """A seeded batch of states."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(size, *self.shape(), dtype=torch.float64, generator=generator).to(dtype)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("size", [0, 1, 5])
    def test_slopes_are_like_the_state(self, size: int, dtype: torch.dtype) -> None:
        """``dx/dt`` has shape, dtype and device of ``x``, at a time for all and at a time for each sample."""
        dynamics, x = self.make().to(dtype).eval(), self.state(size, dtype)
        for t in (torch.tensor(0.3, dtype=torch.float64), torch.full((size,), 0.3, dtype=torch.float64)):
            with said(f"f(t, x) with t of shape {tuple(t.shape)}, x {tuple(x.shape)} of {dtype}"):
                slope = dynamics(t, x, **self.drive(x))
            assert slope.shape == x.shape, (
                f"x is {tuple(x.shape)}, f(t, x) {tuple(slope.shape)} at t of shape {tuple(t.shape)}: keep the batch "
                "first and give dx/dt the state's shape; a time of shape (batch,) multiplies a sample each, see "
                "odeframe.field.per_sample"
            )
            assert (slope.dtype, slope.device) == (x.dtype, x.device), (
                f"x is {x.dtype}, f(t, x) {slope.dtype}: the time is float64 and makes all that it is added to so; "
                "write t.to(x) first, and register constants as buffers"
            )
            assert bool(torch.isfinite(slope).all()), "f(t, x) is not finite at a normal draw of x"

    def test_evaluation_repeats_itself(self) -> None:
        """In evaluation the field is a function: a gradient that evaluates again gets the same."""
        dynamics, x, t = self.make().eval(), self.state(5), torch.tensor(0.3)
        drive, before = self.drive(x), x.clone()
        slopes = [dynamics(t, x, **drive) for _ in range(2)]
        assert torch.equal(x, before), "f(t, x) has changed x itself: write new values, not x *= 2, x.mul_(2) ..."
        assert torch.equal(*slopes), (
            "two evaluations differ: a draw or a state of the module is in the field; draw from noise, or in training "
            "alone"
        )

    @concerns(lambda kit: not {"mean_field", "batch_norm"} & set(getattr(observed(kit.part), "traits", ())))
    def test_samples_do_not_see_each_other(self) -> None:
        """A sample's slope does not depend on the rest of the batch."""
        dynamics, x, t = self.make().eval(), self.state(5), torch.tensor(0.3)
        drive = self.drive(x)
        alone = dynamics(t, x[1:3], **{name: value[1:3] for name, value in drive.items()})
        assert largest(dynamics(t, x, **drive)[1:3] - alone) <= 1e-12, (
            "a sample's slope depends on the others: take no mean over dimension 0, or declare the trait 'mean_field', "
            "by which solvers with steps for each sample refuse it"
        )

    def test_every_parameter_gets_a_gradient(self) -> None:
        """Parameters that take no part stop several processes, and ``x`` itself must not be detached."""
        dynamics, x = self.make(), self.state(5).requires_grad_(True)
        t = torch.tensor(0.3)
        value = dynamics(t, x, **self.drive(x)).sin().sum()
        if isinstance(dynamics, StochasticDynamics):  # the field is the drift alone
            value = value + dynamics.diffusion(t, x).sin().sum()
        value.backward()
        named = [(name, p) for name, p in dynamics.named_parameters() if p.requires_grad]
        idle = [name for name, p in named if p.grad is None and name not in self.optional]
        assert not idle, f"{idle} take no part in f(t, x): use them or leave them out"
        assert x.grad is not None and bool(torch.isfinite(x.grad).all()), (
            "x got no finite gradient: no .detach(), .data or .numpy() in forward, and a norm of 0 has no derivative"
        )

    def test_drives_a_network(self) -> None:
        """As the block of three steps with weights of their own: pieces are drawn anew, and gradients arrive."""
        with said("as the block of a network, Flow(dynamics, 'piecewise_constant', 'euler')"):
            flow = Flow(self.make(), "piecewise_constant", {"name": "euler", "steps": 3}).double()
            x = self.state(5)
            flow(x, **self.drive(x)).sin().sum().backward()
        blocks: Any = flow.control.blocks
        if self.weights(self.make(3)) != self.weights(self.make(4)):  # else weights are not drawn at all
            assert self.weights(blocks[0]) != self.weights(blocks[1]), (
                "all pieces start from equal weights: reset_parameters() must draw those of its own module again"
            )

    @staticmethod
    def weights(module: nn.Module) -> list[float]:
        """All parameters as numbers."""
        return [value for parameter in module.parameters() for value in parameter.detach().reshape(-1).tolist()]

    @concerns(lambda kit: isinstance(kit.part, (SeparableDynamics, BranchedDynamics, SemilinearDynamics)))
    def test_parts_are_those_of_forward(self) -> None:
        """Schemes that treat parts apart solve the same equation as those that call ``forward``."""
        dynamics: Any = self.make().eval()
        x, t = self.state(5), torch.tensor(0.3)
        whole = {}
        if isinstance(dynamics, SeparableDynamics):
            y, z = dynamics.split(x)
            whole["first and second"] = torch.cat([dynamics.first(t, z), dynamics.second(t, y)], dim=1)
        if isinstance(dynamics, BranchedDynamics):
            whole["the mean of branches"] = torch.stack(dynamics.branches(t, x)).mean(0)
        if isinstance(dynamics, SemilinearDynamics):
            whole["nonlinear - matvec"] = dynamics.nonlinear(t, x) - dynamics.matvec(x)
            back = dynamics.solve_shifted(0.1, x)
            assert largest(back + 0.1 * dynamics.matvec(back) - x) <= 1e-9, (
                "solve_shifted(dt, rhs) is not the inverse of I + dt L with L of matvec"
            )
        for name, value in whole.items():
            assert largest(value - dynamics(t, x)) <= 1e-9, f"{name} is not forward(t, x): one of them has another sign"
