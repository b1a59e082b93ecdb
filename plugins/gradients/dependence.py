"""What a solve depends on: the tensors whose gradients a backward pass of one's own returns, autocast, randomness."""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence

import torch
from torch import Tensor

from odeframe import Field, Incompatible, Law
from odeframe.grid import inside
from odeframe.transforms import autocast_state as autocast_state
from odeframe.transforms import transforming


def dependencies(field: Field, times: Tensor, gradient: str) -> list[Tensor]:
    """Everything the field depends on between the first and the last time that asks for a gradient, each once.

    Raises:
        Incompatible: a transform of ``torch.func`` is at work, which a backward pass of one's own is not part of.
    """
    if transforming():
        raise Incompatible(
            f"gradient {gradient!r}: got a transform of torch.func (grad, vjp, jvp, vmap), expected plain autograd; "
            "write torch.autograd.grad, or gradient='backprop'"
        )
    plain = times.detach()
    nodes = [plain[0], *(torch.tensor(p, dtype=plain.dtype) for p in inside(field.breakpoints(), times)), plain[-1]]
    found: dict[int, Tensor] = {}
    for t, t_next in itertools.pairwise(nodes):
        for tensor in field.on(t, t_next).tensors:
            if tensor.requires_grad:
                found[id(tensor)] = tensor
    return list(found.values())


def check_dependence(outputs: Sequence[Tensor], known: Sequence[Tensor], gradient: str) -> None:
    """Refuses a result that depends on a tensor with a gradient which the backward pass would not see.

    A tensor with the attribute ``unknown``, what an implicit step solves for, is nothing to depend on.

    Args:
        outputs: results with their graph.
        known: the tensors that are seen.
        gradient: name for the error.

    Raises:
        Incompatible: a tensor enters by a closure or a plain attribute.
    """
    seen_tensors = {id(tensor) for tensor in known}
    stops = {tensor.grad_fn for tensor in known if tensor.grad_fn is not None}
    stack, seen = [output.grad_fn for output in outputs], set(stops)
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in seen_tensors and not getattr(variable, "unknown", False):
            raise Incompatible(
                f"gradient {gradient!r}: the field depends on a tensor of shape {tuple(variable.shape)} that is "
                "neither a parameter of the dynamics nor part of the drive, so its gradient would be lost; register "
                "it as an nn.Parameter, pass it as drive=..., or write gradient='backprop'"
            )
        stack.extend(following for following, _ in node.next_functions)


def check_places(tensors: Sequence[Tensor], places: Container[int], gradient: str) -> None:
    """Refuses a backward pass that sees other tensors than the forward pass did: their gradients would be lost.

    Args:
        tensors: what the field depends on now and what asks for a gradient.
        places: the identities of those that the forward pass saw.
        gradient: name for the error.

    Raises:
        Incompatible: a tensor is not among them.
    """
    if any(id(tensor) not in places for tensor in tensors):
        raise Incompatible(
            f"gradient {gradient!r}: the field depends on other tensors in the backward pass than in the forward one "
            "(parameters swapped by functional_call, replaced, or unfrozen in between); write gradient='backprop'"
        )


def check_law(law: Law, t: Tensor, x: Tensor, gradient: str) -> None:
    """:func:`check_dependence` of one evaluation of a law at ``x`` ``(batch, *state)``."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        check_dependence([law(t, leaf)], [leaf, *law.tensors], gradient)


def random_state(device: torch.device) -> tuple[Tensor, ...]:
    """The state of torch's generators on the host and on the device."""
    host = torch.get_rng_state()
    return (host, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (host,)


def same_random(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    """Whether nobody drew in between."""
    return all(torch.equal(v, w) for v, w in zip(a, b, strict=True))
