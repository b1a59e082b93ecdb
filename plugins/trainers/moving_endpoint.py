"""Moving endpoint control: the field by gradient descent, the end time of each sample by Q-learning."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odeframe import ControlTrainer, Incompatible, InvalidOption
from odeframe.options import check_not_negative
from odeframe.reduction import reduce_gradients
from odeframe.stopping import StoppingNetwork, Trajectory
from odeframe.trainer import Trained, optimizer_step


class MovingEndpoint(ControlTrainer):
    """``min over w, tau  E[Phi(x(tau), y) + int_0^tau r dt]``, ``x' = f(x; w)``, in three parts.

    1. ``fixed`` batches train ``w`` with a given number of loops, ``Phi(x_n)`` by gradient descent;
    2. ``policy`` batches train ``Q`` with ``w`` frozen.  The reward of going on is ``L(x_n) - L(x_{n+1}) - r``, that
       of stopping 0, with ``L = Phi`` and the running costs, so
       ``Q(x_n) <- L(x_n) - L(x_{n+1}) - r + d max(0, Q(x_{n+1}))``, the last without the maximum (Q-learning; each
       batch walks all loops, so that every state of it is learned from);
    3. from then on in turn: ``period`` batches of ``w`` to where the policy stops, ``period`` of ``Q``.

    From part 2 on the policy ends samples in validation, test and prediction.  Logs ``train_policy_loss`` and
    ``train_stop`` (mean number of loops the weights were trained to).

    Args:
        fixed: batches of part 1.
        policy: batches of part 2.
        period: of part 3.
        loops: of part 1: for the mildest and for the strongest degradation among the data, linear in the level in
            [0, 1] that is the third of a batch; batches without one take the second.  Two equal numbers make it one
            for all; the paper's "refined" training has different ones.
        price: ``r``, the cost of a loop, in the units of ``Phi``.
        discount: ``d`` in [0, 1]; with 0 the policy looks one loop ahead, which is enough where ``L`` first falls and
            then rises, and leaves ``Q`` near the stop free of what is far ahead.

    Raises:
        Incompatible: the network has no policy (``setup``).

    Source: Zhang, Lu, Liu, Dong 2019, Dynamically Unfolding Recurrent Restorer, section 3 (arXiv 1805.07709).
    """

    automatic_optimization = False
    traits: ClassVar[tuple[str, ...]] = ("ddp",)
    conformance: ClassVar[dict[str, Any]] = {
        "architecture": {"name": "durr", "width": 6, "hidden": 6, "loops": 3},
        "epochs": 20,
    }

    def __init__(
        self,
        fixed: int = 1000,
        policy: int = 200,
        period: int = 20,
        loops: tuple[int, int] = (4, 8),
        price: float = 0.0,
        discount: float = 1.0,
    ) -> None:
        for name, value, least in (("fixed", fixed, 0), ("policy", policy, 0), ("period", period, 1)):
            if value < least:
                raise InvalidOption(f"trainer 'moving_endpoint', option {name}: got {value}, expected at least {least}")
        if len(loops) != 2 or not 1 <= loops[0] <= loops[1]:
            raise InvalidOption(
                f"trainer 'moving_endpoint', option loops: got {list(loops)}, expected two numbers of at least 1, the "
                "second not below the first"
            )
        check_not_negative("trainer 'moving_endpoint'", price=price)
        if not 0 <= discount <= 1:
            raise InvalidOption(
                f"trainer 'moving_endpoint', option discount: got {discount}, expected a number in [0, 1]"
            )
        self.fixed, self.policy, self.period, self.price, self.discount = fixed, policy, period, price, discount
        self.loops = (loops[0], loops[1])

    def setup(self, module: Trained) -> None:
        """Refuses a network without a policy; tells of a fit that ends before the policy is trained."""
        _network(module)
        total = getattr(getattr(module, "trainer", None), "estimated_stepping_batches", float("inf"))
        if total <= self.fixed:
            warnings.warn(
                f"trainer 'moving_endpoint': the fit has {total} batches, and the policy is trained from batch "
                f"{self.fixed} on: all loops will be walked; write a smaller trainer.fixed or a longer fit",
                stacklevel=2,
            )

    def training_step(self, module: Trained, batch: Any) -> Tensor:
        """One batch of the part that its number falls in; the loss ``J`` where the samples were trained to stop."""
        network, number = _network(module), module.batches
        x, target = module.task.split(batch)
        on_policy = self._on_policy(number)
        with torch.set_grad_enabled(not on_policy):
            path = network.trajectory(x)
        if number < self.fixed:
            stop = self._given(network, batch, x)
        else:
            network.decides.fill_(True)
            stop = network.stops(path.states)
        loss = _loss(module, network, path, stop, target)
        found = {"train_stop": float(stop.float().mean())}
        if on_policy:
            improved = self._policy_loss(module, network, path, target)
            found["train_policy_loss"] = float(improved.detach())
            _descend(network.policy, improved)
        else:
            _descend(network.stages, loss)
        optimizer_step(module)
        module.log_dict(found, on_step=False, on_epoch=True, batch_size=len(stop), sync_dist=True)
        return loss.detach()

    def _on_policy(self, number: int) -> bool:
        """Whether a batch trains the policy."""
        late = number - self.fixed - self.policy
        return 0 <= number - self.fixed < self.policy or (late >= 0 and late // self.period % 2 == 1)

    def _given(self, network: StoppingNetwork, batch: Any, x: Tensor) -> Tensor:
        """The loops of part 1, ``(batch,)``."""
        low, high = (min(number, network.loops) for number in self.loops)
        told = isinstance(batch, tuple | list) and len(batch) > 2
        level = batch[2].to(x) if told else x.new_ones(len(x))
        return (low + level * (high - low)).round().long().clamp(1, network.loops)

    def _policy_loss(self, module: Trained, network: StoppingNetwork, path: Trajectory, target: Any) -> Tensor:
        """The mean of Huber's loss of ``Q`` against its target."""
        between = path.states[1:-1].detach()
        if not len(between):
            return 0 * torch.stack([parameter.sum() for parameter in network.policy.parameters()]).sum()
        with torch.no_grad():
            costs = torch.stack([module.task.cost(network.leave(state), target) for state in path.states[1:]])
            costs = costs if path.costs is None else costs + path.costs[1:]
        worth = network.policy(between.flatten(0, 1)).reshape(between.shape[:2])
        ahead = torch.cat([worth.detach()[1:].clamp(min=0), torch.zeros_like(worth[:1])])
        return F.smooth_l1_loss(worth, costs[:-1] - costs[1:] - self.price + self.discount * ahead, beta=0.1)


def _network(module: Trained) -> StoppingNetwork:
    if not isinstance(module.network, StoppingNetwork):
        raise Incompatible(
            f"trainer 'moving_endpoint' trains a network whose end a policy chooses, got "
            f"{type(module.network).__name__}; write architecture: durr, or trainer: gradient"
        )
    return module.network


def _loss(module: Trained, network: StoppingNetwork, path: Trajectory, stop: Tensor, target: Any) -> Tensor:
    """``J`` with each sample at the state where it stops, 0-d."""
    sample = torch.arange(len(stop), device=stop.device)
    cost = module.task.cost(network.leave(path.states[stop, sample]), target)
    return (cost if path.costs is None else cost + path.costs[stop, sample]).mean() + module.control_cost()


def _descend(part: nn.Module, loss: Tensor) -> None:
    """Sets the gradients of one part of the network; the other is frozen, its gradients stay ``None``."""
    parameters = [parameter for parameter in part.parameters() if parameter.requires_grad]
    reduce_gradients(parameters, torch.autograd.grad(loss, parameters, allow_unused=True))
