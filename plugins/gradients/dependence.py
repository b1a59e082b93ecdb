"""What a solve depends on: the tensors whose gradients a backward pass of one's own returns, and randomness."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeframe import Field, Incompatible, Law
from odeframe.grid import inside
from odeframe.transforms import transforming


@dataclass(frozen=True)
class Dependence:
    """What a solve depends on besides its start and its times.

    Attributes:
        field: what is solved, cut off from what made it.
        tensors: what asks for a gradient, for autograd to go on from.
        leaves: the same one by one as the field has them, for a backward pass of one's own to end at.
    """

    field: Field
    tensors: list[Tensor]
    leaves: list[Tensor]


def dependence(field: Field, times: Tensor, gradient: str) -> Dependence:
    """Everything the field depends on between the first and the last time that asks for a gradient, each once.

    Raises:
        Incompatible: a transform of ``torch.func`` is at work, which a backward pass of one's own is not part of; or
            weights that were swapped in are computed from one another.
    """
    if transforming():
        raise Incompatible(
            f"gradient {gradient!r}: got a transform of torch.func (grad, vjp, jvp, vmap), expected plain autograd; "
            "write torch.autograd.grad, or gradient='backprop'"
        )
    plain, inner = times.detach(), field.cut()
    nodes = [plain[0], *(torch.tensor(p, dtype=plain.dtype) for p in inside(field.breakpoints(), times)), plain[-1]]
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for t, t_next in itertools.pairwise(nodes):
        for tensor, leaf in zip(field.on(t, t_next).tensors, inner.on(t, t_next).tensors, strict=True):
            if tensor.requires_grad:
                found[id(leaf)] = (tensor, leaf)
    pairs = list(found.values())
    made = Dependence(inner, [tensor for tensor, _ in pairs], [leaf for _, leaf in pairs])
    check_apart(made.leaves, gradient)
    return made


def graph_before(ends: Iterable[Any], stops: Container[Any] = ()) -> Iterator[Any]:
    """Every node of autograd's graph that leads to ``ends``, those included, each once; not past ``stops``."""
    stack, seen = list(ends), set[Any]()
    while stack:
        node = stack.pop()
        if node is None or node in seen or node in stops:
            continue
        seen.add(node)
        yield node
        stack.extend(before for before, _ in node.next_functions)


def check_apart(leaves: Sequence[Tensor], gradient: str) -> None:
    """Refuses tensors of which one is computed from another: its share would be counted twice.

    Raises:
        Incompatible: naming the shape of one that leads to another.
    """
    known = {id(tensor) for tensor in leaves}
    nodes = {tensor.grad_fn for tensor in leaves if tensor.grad_fn is not None}
    for tensor in leaves:
        for node in graph_before(
            [] if tensor.grad_fn is None else [before for before, _ in tensor.grad_fn.next_functions]
        ):
            if node in nodes or id(getattr(node, "variable", None)) in known:
                raise Incompatible(
                    f"gradient {gradient!r}: a tensor of shape {tuple(tensor.shape)} that the field depends on is "
                    "computed from another of them (tied weights swapped in by functional_call?), which would be "
                    "counted twice; write gradient='backprop'"
                )


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
    for node in graph_before([output.grad_fn for output in outputs], stops):
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in seen_tensors and not getattr(variable, "unknown", False):
            raise Incompatible(
                f"gradient {gradient!r}: the field depends on a tensor of shape {tuple(variable.shape)} that is "
                "neither a parameter of the dynamics nor part of the drive, so its gradient would be lost; register "
                "it as an nn.Parameter, pass it as drive=..., or write gradient='backprop'"
            )


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
