"""What surrounds a solve: autocast, masks, noise, parameters, the same in the backward pass or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from odeframe.errors import Incompatible
from odeframe.field import FunctionField
from odeframe.flow import Flow
from odeframe.noise import Noise
from odeframe.testing.accuracy import largest
from odeframe.testing.conformance import build, concerns, refused
from odeframe.testing.derivatives import GradientChecks
from odeframe.testing.problems import NoisyEuler


class SurroundingChecks(GradientChecks):
    """Every evaluation that a gradient repeats is the one of the forward pass."""

    def test_autocast_is_the_same_both_ways(self) -> None:
        """Every evaluation runs under the autocast state of the forward pass, wherever the backward pass is called."""
        for inside in (True, False):
            seen: list[bool] = []
            flow = self.flow(self.solvers[0]).float()
            hook = flow.dynamics.register_forward_pre_hook(
                lambda m, a, s=seen: s.append(torch.is_autocast_enabled("cpu"))
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                loss = flow(self.start().detach().float()).sum()
            with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
                loss.backward()
            hook.remove()
            assert set(seen) <= {inside}, "the backward pass evaluates the field under another autocast state: store it"
            exact = self.flow(self.solvers[0], gradient="backprop")
            exact(self.start().detach()).sum().backward()
            for a, b in zip(flow.parameters(), exact.parameters(), strict=True):
                assert a.grad is not None and b.grad is not None, "under autocast a parameter lost its gradient"
                assert a.grad.dtype == torch.float32, f"a float32 parameter has a gradient of {a.grad.dtype}"
                assert largest(a.grad - b.grad) <= 0.05 * max(1.0, largest(b.grad)), "autocast changed the gradient"

    @pytest.mark.parametrize("trait", ["dropout", "batch_norm"])
    def test_random_and_batch_wide_layers(self, trait: str) -> None:
        """Dropout masks and running statistics are those of one forward pass, or the layer is refused."""
        layer = nn.Dropout(0.3) if trait == "dropout" else nn.BatchNorm1d(4)
        results = []
        for gradient in (None, "backprop"):
            torch.manual_seed(5)
            block = nn.Sequential(nn.Linear(4, 4), layer, nn.Tanh(), nn.Linear(4, 4))
            if gradient is None and self.refuses(trait, dynamics=block):
                return
            words: dict[str, Any] = {} if gradient is None else {"gradient": gradient}
            flow = self.flow(self.solvers[0], dynamics=block, **words)
            torch.manual_seed(9)
            flow(self.start(6)).sin().sum().backward()
            results.append([p.grad for p in flow.parameters()] + list(flow.buffers()))
            layer = nn.Dropout(0.3) if trait == "dropout" else nn.BatchNorm1d(4)
        for mine, theirs in zip(*results, strict=True):
            assert largest((mine - theirs).double()) <= 1e-9, (
                f"with {trait} the gradient or the running statistics are not those of one forward pass: repeat the "
                f"masks, update statistics once, or refuse it: needs = ('dynamics:!{trait}',)"
            )

    @pytest.mark.parametrize("trait", ["dropout", "batch_norm"])
    def test_layers_in_evaluation_mode(self, trait: str) -> None:
        """A frozen batch norm is an affine map and has the gradient of one; put to training it is refused by name."""
        grads = []
        for gradient in (None, "backprop"):
            torch.manual_seed(5)
            layer: Any = nn.Dropout(0.3) if trait == "dropout" else nn.BatchNorm1d(4)
            block = nn.Sequential(nn.Linear(4, 4), layer, nn.Tanh(), nn.Linear(4, 4)).double()
            if trait == "batch_norm":
                layer(2 * torch.randn(64, 4, dtype=torch.float64) + 1)  # statistics that are not those of the start
            if gradient is None and not self.refuses(trait, dynamics=block):
                return
            words: dict[str, Any] = {} if gradient is None else {"gradient": gradient}
            flow = self.flow(self.solvers[0], dynamics=block.eval(), **words)
            flow(self.start(6)).sin().sum().backward()
            grads.append([p.grad for p in flow.parameters()])
            if gradient is None:
                with refused(Incompatible, trait, "a layer that was frozen when the flow was built is in training"):
                    flow.train()(self.start(6))
        tolerance = 1e-9 if "exact" in self.part.traits else 1e-5
        for mine, theirs in zip(*grads, strict=True):
            assert largest(mine - theirs) <= tolerance * max(1.0, largest(theirs)), (
                f"the gradient of a {trait} in evaluation mode is not that of the map it is there"
            )

    def test_stochastic_solvers(self) -> None:
        """The noise of the forward pass is that of the gradient, or the solver is refused."""
        if self.refuses("stochastic", solver=NoisyEuler(steps=8)):
            return
        grads = []
        for gradient in (None, "backprop"):
            words: dict[str, Any] = {} if gradient is None else {"gradient": gradient}
            flow = self.flow(lambda: NoisyEuler(steps=8), **words)
            flow(self.start(), noise=Noise(1)).sin().sum().backward()
            grads.append([p.grad for p in flow.parameters()])
        for mine, theirs in zip(*grads, strict=True):
            assert largest(mine - theirs) <= 1e-9, "the gradient has seen other noise than the forward pass"

    def refuses(self, trait: str, **words: Any) -> bool:
        """Whether the gradient refuses a flow, by the trait's name and with a way out."""
        words = {"dynamics": self.dynamics(), "solver": build("solver", self.solvers[0]), **words}
        try:
            Flow(gradient=self.make(), **words)
        except Incompatible as error:
            assert (trait in str(error) or "needs a solver" in str(error)) and "fits" in str(error), (
                f"the refusal does not say why, or what would fit: {error}"
            )
            return True
        return False

    @concerns(lambda kit: build("solver", kit.solvers[0]).opaque)  # a scheme of parts takes no bare function
    def test_closures_are_not_lost(self) -> None:
        """A tensor that the field takes from a closure gets its gradient, or an error says that it would not."""
        weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

        def loss() -> Tensor:
            field, solver = FunctionField(lambda t, x: -weight * x), build("solver", self.solvers[0])
            return self.make().solve(solver, field, self.start(), (0.0, 1.0)).final.sum()

        try:
            loss().backward()
        except Incompatible as error:
            assert "backprop" in str(error), f"the refusal does not say what would work: {error}"
            return
        assert weight.grad is not None, "the gradient of a tensor in a closure was lost in silence: refuse it"
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(sign * 1e-4)
                values.append(float(loss()))
                weight.sub_(sign * 1e-4)
        assert abs(float(weight.grad) - (values[0] - values[1]) / 2e-4) <= 1e-5, (
            "the gradient of a tensor in a closure is wrong: integrate all of law.tensors, or refuse bare functions"
        )

    def test_swapped_parameters_are_not_lost(self) -> None:
        """Parameters that ``functional_call`` puts in for the forward pass get their gradients, or an error says no."""
        flow, x0 = self.flow(self.solvers[0]), self.start()
        values = {name: p.detach().clone().requires_grad_(True) for name, p in flow.named_parameters()}
        loss = torch.func.functional_call(flow, values, (x0,)).sin().sum()
        try:
            loss.backward()
        except Incompatible:
            return
        expected = torch.autograd.grad(flow(x0).sin().sum(), list(flow.parameters()))
        for value, gradient in zip(values.values(), expected, strict=True):
            assert value.grad is not None and largest(value.grad - gradient) <= 1e-9, (
                "the backward pass has seen the module's own parameters instead of those of the forward pass: compare "
                "the field's tensors with those that were saved, and refuse others"
            )

    def test_second_derivatives(self) -> None:
        """A second derivative is right, or refused."""
        flow, x0 = self.flow(self.solvers[0]), self.start()
        try:
            (first,) = torch.autograd.grad(flow(x0).sin().sum(), x0, create_graph=True)
        except Incompatible as error:
            assert "twice" in str(error), (
                f"the refusal does not say that the gradient cannot be differentiated twice: {error}"
            )
            return
        assert first.requires_grad, (
            "the derivative carries no graph where create_graph=True asked for one: refuse it in words (in a backward "
            "pass it shows as torch.is_grad_enabled())"
        )
        (second,) = torch.autograd.grad(first.square().sum(), x0)
        self.compare_second(flow, x0, second)

    @staticmethod
    def compare_second(flow: Flow, x0: Tensor, second: Tensor) -> None:
        """Holds a second derivative against differences of the first."""
        direction = torch.ones_like(x0) / x0.numel() ** 0.5
        values = []
        for sign in (1, -1):
            at = (x0 + sign * 1e-5 * direction).detach().requires_grad_(True)
            (first,) = torch.autograd.grad(flow(at).sin().sum(), at)
            values.append(float(first.square().sum()))
        expected = (values[0] - values[1]) / 2e-5
        assert abs(float((second * direction).sum()) - expected) <= 1e-6 * max(1.0, abs(expected)), (
            "the second derivative is wrong in silence: refuse create_graph=True (in a backward pass it shows as "
            "torch.is_grad_enabled()), or make it right"
        )
