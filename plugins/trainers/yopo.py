"""You only propagate once: the attack sees layer one alone, by the maximum principle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe import InvalidOption
from odeframe.attacks import Ball, Clip, check_classes, pgd
from odeframe.noise import StepNoise
from odeframe.pontryagin import Terminal, check_repeatable, inner
from odeframe.reduction import reduce_gradients
from odeframe.stepmap import InitStep, State, StepMap
from odeframe.trainer import Trained, optimizer_step
from odeframe_plugins.trainers.adversarial import AdversarialTrainer, Passes, evaluating
from odeframe_plugins.trainers.trades import check_beta, divergence, reference_output, trades_loss

POLICIES = ("accumulate", "hamiltonian")


class LayerOne(nn.Module):
    """Layer one and the rest of a network: ``x_1 = M_0(x)``, ``J(x_1)``.

    Layer one is the first step map of the network, its stem; the start of a flow alone is no layer and takes the first
    step with it.

    Args:
        steps: all step maps, of ``Network.steps(x)``.
    """

    def __init__(self, steps: Sequence[StepMap]) -> None:
        super().__init__()
        count = 2 if isinstance(steps[0], InitStep) else 1
        self.first, self.rest = nn.ModuleList(steps[:count]), nn.ModuleList(steps[count:])

    def forward(self, x: Tensor) -> State:
        """``x_1``, a tuple: a stem may make context beside the state."""
        return _through(self.first, (x,))

    def costate(self, x1: State, terminal: Terminal, parameters: Sequence[nn.Parameter] = ()) -> Costate:
        """One forward and one backward pass through the layers after the first.

        Args:
            x1: what layer one made, a tuple.
            terminal: ``J`` of the last state ``(output, *running costs)``, 0-d.
            parameters: whose gradient is asked for.
        """
        leaves = tuple(value.detach().requires_grad_() for value in x1)
        with torch.enable_grad():
            J = terminal(_through(self.rest, leaves))
        found = torch.autograd.grad(J, [*leaves, *parameters], allow_unused=True, materialize_grads=True)
        return Costate(J.detach(), tuple(-slope for slope in found[: len(leaves)]), found[len(leaves) :])

    def hamiltonian(self, x: Tensor, p: State) -> Tensor:
        """``H_0 = <p_1, M_0(x)>``, 0-d; ``dH_0/dx = -dJ/dx`` where ``p`` is the costate at ``x``."""
        return inner(p, self(x))

    def ascend(self, x: Tensor, moved: Tensor, p: State, within: Ball, steps: int, step_size: float) -> Tensor:
        """Steps of ``x' <- P(x' - s sign dH_0/dx')`` with ``p`` held fixed: layer one alone is evaluated."""
        return pgd(lambda v: -self.hamiltonian(v, p), x, within, steps, step_size, start=moved)


@dataclass(frozen=True)
class Costate:
    """``J`` 0-d, ``p = -dJ/dx_1`` shaped like ``x_1``, and ``dJ/du`` of the layers after the first."""

    objective: Tensor
    p: State
    gradients: tuple[Tensor, ...]


def _through(steps: Any, z: State) -> State:
    for step in steps:
        z = step(z)
    return z


class YopoTrainer(AdversarialTrainer):
    """Adversarial training with ``m`` full passes a batch, and ``n`` steps of the attack through layer one after each.

    Only layer one sees the perturbation, so the maximum principle of the game asks it to minimise layer one's
    Hamiltonian ``H_0 = <p_1, M_0(x')>`` at the costate ``p_1 = -dJ/dx_1``:

        x'_0 uniform in B(x);   for j < m:  p_1 at x'_j (full pass),  x'_{j+1} = n steps of P(x' - s sign dH_0/dx')
        u <- u - lr sum_{j >= skip} dJ/du (x'_j)

    The gradient is the sum over ``j``, not the mean, so a plain optimiser wants its step length divided by
    ``m - skip``.  The attack is weak in the first passes; those that ``skip`` counts move it and nothing else.
    **Layer one** has a choice.  ``accumulate``: its gradient is taken where that of all other layers is,
    ``sum_j dJ/du_0 (x'_j)``, so that the whole is the gradient of ``sum_j J(x'_j)``; the steps after the last full pass
    would change nothing and are left out: a batch costs ``m`` full passes and ``(m - 1) n`` of layer one.
    ``hamiltonian``: layer one ascends its Hamiltonian where the attack left it, ``-sum_j dH_0/du_0 (x'_{j+1})`` with
    the costate of ``x'_j``: ``m`` full passes and ``m (n + 1) - skip`` of layer one.  The authors' code adds up both.

    Args:
        m: full passes a batch; with ``accumulate`` and 1 it trains on the random start.
        n: steps of the attack a costate.
        eps: radius, in the units of the input.
        step_size: ``s``, the same units; default ``eps / 4``.
        layer_one: ``"accumulate"`` or ``"hamiltonian"``.
        skip: of the ``m`` passes, how many at first give the attack their costate and the weights no gradient; with
            ``m - 1`` it trains on the last ``x'`` alone, as ``pgd`` does.
        clip: as for every adversarial rule, and so are the next ones.
        seed: of the starts.
        robust: attacks to measure.

    Raises:
        Incompatible: layer one has batch norm or dropout, which would not be one function in all passes (``setup``).

    Source: Zhang, Zhang, Lu, Zhu, Dong 2019, You Only Propagate Once: Accelerating Adversarial Training via Maximal
    Principle, section 3 and algorithm 1.
    """

    automatic_optimization = False
    traits: ClassVar[tuple[str, ...]] = ("ddp",)

    def __init__(
        self,
        m: int = 5,
        n: int = 3,
        eps: float = 0.5,
        step_size: float | None = None,
        layer_one: str = "accumulate",
        clip: Clip = "data",
        seed: int = 0,
        robust: str | tuple[str, ...] = (),
        skip: int = 0,
    ) -> None:
        super().__init__("yopo", eps, eps / 4 if step_size is None else step_size, clip, seed, robust)
        self.at_least_one(m=m, n=n)
        if layer_one not in POLICIES:
            raise InvalidOption(
                f"{self.word}, option layer_one: got {layer_one!r}, expected {' or '.join(map(repr, POLICIES))}"
            )
        if not 0 <= skip < m:
            raise InvalidOption(f"{self.word}, option skip: got {skip}, expected 0 to {m - 1}, below m")
        self.m, self.n, self.layer_one, self.skip = m, n, layer_one, skip

    def setup(self, module: Trained) -> None:
        """Refuses a layer one that is not the same function in each pass."""
        super().setup(module)
        check_repeatable(list(LayerOne(module.network.steps()).first))

    def improve(
        self, module: Trained, x: Tensor, target: Any, within: Ball, noise: StepNoise, passes: Passes
    ) -> Tensor:
        """The mean of ``J`` over the full passes that the weights learn from; moves the weights."""
        layers = LayerOne(module.network.steps(x))
        parameters = [parameter for parameter in module.network.parameters() if parameter.requires_grad]
        own = [parameter for parameter in layers.first.parameters() if parameter.requires_grad]
        total = {parameter: torch.zeros_like(parameter) for parameter in parameters}
        moved, losses = within.draw(x, noise), []
        for j in range(self.m):
            learns = j >= self.skip
            x1 = layers(moved)
            counted = parameters if learns else []
            found = layers.costate(x1, lambda z: objective_of(module, z, target), counted)
            passes.full += 1
            losses += [found.objective] * learns
            for parameter, gradient in zip(counted, found.gradients, strict=True):
                total[parameter] += gradient
            accumulate = self.layer_one == "accumulate"
            H = inner(found.p, x1) if accumulate else None
            if not accumulate or j < self.m - 1:
                moved = layers.ascend(x, moved, found.p, within, self.n, self.step_size)
                passes.first_layer += self.n
            if not learns:
                continue
            if H is None:
                H = layers.hamiltonian(moved, found.p)
                passes.first_layer += 1
            if own:
                slopes = torch.autograd.grad(H, own, allow_unused=True, materialize_grads=True)
                for parameter, gradient in zip(own, slopes, strict=True):
                    total[parameter] -= gradient
        reduce_gradients(parameters, [total[parameter] for parameter in parameters])
        optimizer_step(module)
        return torch.stack(losses).mean()


def objective_of(module: Trained, z: State, target: Any) -> Tensor:
    """``J = mean_i [Phi + running costs] + cost of the control`` of a last state ``(output, *running costs)``, 0-d."""
    costs = module.task.cost(z[0], target)
    for running in z[1:]:
        costs = costs + running
    return costs.mean() + module.control_cost()


class TradesYopoTrainer(AdversarialTrainer):
    """TRADES with the attack through layer one: ``m`` costates of the divergence, ``n`` steps after each, one loss.

    ``p_1 = -d KL(softmax f(x) || softmax f(x'_j)) / dx_1``, ``x'_{j+1}`` by ``n`` steps of ``P(x' - s sign dH_0/dx')``,
    in evaluation mode; then the loss of ``trades`` at ``x'_m``.  A batch costs ``m + 3`` full passes and ``m n`` of
    layer one.

    Args:
        beta: weight of the divergence.
        m: costates a batch.
        n: steps of the attack a costate.
        eps: radius, in the units of the input.
        step_size: ``s``, the same units; default ``eps / 4``.
        clip: as for every adversarial rule, and so are the next ones.
        seed: of the starts.
        robust: attacks to measure.

    Source: Zhang, Zhang, Lu, Zhu, Dong 2019, You Only Propagate Once, section 4 (TRADES); Zhang et al. 2019,
    Theoretically Principled Trade-off between Robustness and Accuracy.
    """

    conformance: ClassVar[dict[str, Any]] = {"share": 0.8}  # of the loss at clean samples, not all it minimises
    traits: ClassVar[tuple[str, ...]] = ("automatic", "ddp")

    def __init__(
        self,
        beta: float = 6.0,
        m: int = 3,
        n: int = 4,
        eps: float = 0.5,
        step_size: float | None = None,
        clip: Clip = "data",
        seed: int = 0,
        robust: str | tuple[str, ...] = (),
    ) -> None:
        super().__init__("trades_yopo", eps, eps / 4 if step_size is None else step_size, clip, seed, robust)
        self.at_least_one(m=m, n=n)
        self.beta, self.m, self.n = check_beta(self.word, beta), m, n

    def setup(self, module: Trained) -> None:
        """Refuses a task without scores of classes."""
        check_classes(self.word, module.task, module.spec)

    def improve(
        self, module: Trained, x: Tensor, target: Any, within: Ball, noise: StepNoise, passes: Passes
    ) -> Tensor:
        """The loss, for Lightning to differentiate."""
        moved = within.draw(x, noise)
        with evaluating(module.network):
            layers = LayerOne(module.network.steps(x[:1]))
            reference = reference_output(module, x)
            for _ in range(self.m):
                with torch.no_grad():
                    x1 = layers(moved)
                p = layers.costate(x1, lambda z: divergence(reference, z[0]).mean()).p
                moved = layers.ascend(x, moved, p, within, self.n, self.step_size)
        passes.full += self.m + 3
        passes.first_layer += self.m * self.n
        return trades_loss(module, x, target, moved, self.beta)
