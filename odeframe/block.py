"""What a control drives, and the shape that its parameters give the control."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from odeframe.errors import InvalidOption


class Block(nn.Module):
    """What a control drives: the dynamics, once for each slot, and the solver's trainable coefficients.

    Its parameters are the shape of the control.  A control other than a constant one owns copies of it, or keeps it
    with its parameters set to ``None`` and feeds them by ``torch.func.functional_call``.
    """

    def __init__(self, dynamics: nn.Module, solver: nn.Module | None = None, slots: int = 1) -> None:
        super().__init__()
        self.slots = nn.ModuleList([dynamics])
        for _ in range(slots - 1):
            self.slots.append(fresh_copy(dynamics))
        has_coefficients = solver is not None and any(True for _ in solver.parameters())
        self.solver = solver if has_coefficients else None
        self.aliases: dict[str, str] = {}  # further names of shared parameters, once the block is empty

    def forward(self, slot: int | str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of one slot (``"solver"``: of the solver); ``"forward"`` runs the module's hooks too."""
        target: Any = self.solver if slot == "solver" else self.slots[int(slot)]
        return target(*args, **kwargs) if method == "forward" else getattr(target, method)(*args, **kwargs)


def reset(module: nn.Module) -> None:
    """Draws fresh parameters by the modules' own ``reset_parameters``, children first.

    Raises:
        InvalidOption: a module with parameters of its own has no ``reset_parameters``.
    """
    for child in reversed(list(module.modules())):  # a parent may overrule its children
        redraw = getattr(child, "reset_parameters", None)
        if callable(redraw):
            redraw()
        elif any(True for _ in child.parameters(recurse=False)):
            raise InvalidOption(
                f"{type(child).__name__} has parameters but no reset_parameters(), so its pieces cannot be drawn one "
                "by one; add the method, or write init='copy' to start every piece from the same values"
            )


def fresh_copy(module: nn.Module) -> Any:
    """A deep copy with parameters of its own draw."""
    twin = copy.deepcopy(module)
    reset(twin)
    return twin


def empty(block: Block) -> dict[str, Tensor]:
    """Sets the block's trainable parameters to ``None`` and returns what they were: the shape of the control.

    Parameters that are frozen stay; a shared parameter is returned once, under its first name.
    """
    first = {id(value): name for name, value in block.named_parameters()}
    named = {n: v for n, v in block.named_parameters(remove_duplicate=False) if v.requires_grad}
    block.aliases = {name: first[id(value)] for name, value in named.items() if first[id(value)] != name}
    for module in block.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad:
                module._parameters[name] = None
    return {name: value.detach().clone() for name, value in named.items() if name not in block.aliases}
