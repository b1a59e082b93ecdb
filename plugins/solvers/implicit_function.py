"""Stages that are the solution of an equation, differentiated by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odeframe import Incompatible, InvalidOption, SolveFailed
from odeframe.quadrature import columns
from odeframe_plugins.solvers.krylov import gmres
from odeframe_plugins.solvers.newton import Kind, Outcome
from odeframe_plugins.solvers.stages import StageSystem, rows


def solve_stages(system: StageSystem, find: Callable[[], Outcome], kind: Kind) -> tuple[Tensor, Outcome]:
    """The increments ``z`` of a stage system, with the gradient of the equation that they solve.

    The iterations leave no graph.  Where gradients are recorded, one more evaluation at the solution does, unless the
    last one of the iteration has shown that there is nothing to record.

    Args:
        system: the equation ``z = image(z)``.
        find: runs an iteration.
        kind: how linear systems are solved in the backward pass: ``"exact"`` by factorisation, else by GMRES.
    """
    system.watch = torch.is_grad_enabled()
    with torch.no_grad():
        outcome = find()
    if not torch.is_grad_enabled() or (system.seen and system.watch):
        return outcome.z, outcome
    leaf = outcome.z.detach().requires_grad_(True)
    leaf.unknown = True  # type: ignore[attr-defined]  # for gradients that look for what a step depends on
    image = system.image(leaf)
    if not image.requires_grad:
        return outcome.z, outcome
    return ImplicitFunction.apply(image, outcome.z, leaf, kind), outcome


class ImplicitFunction(torch.autograd.Function):
    """``z`` of ``z = image(z, theta)``: ``dz/dtheta = (I - image_z)^-1 image_theta``.

    The backward pass solves ``(I - image_z^T) v = g`` and hands ``v`` to ``image``, whose own graph leads to whatever
    it depends on: state, times, parameters, drive.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, z: Tensor, leaf: Tensor, kind: Kind) -> Tensor:
        """Its value is ``z``, the solution; ``image`` is there for its graph."""
        ctx.image, ctx.leaf, ctx.kind = image, leaf, kind
        return z.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        """``v``."""
        if torch.is_grad_enabled():
            raise Incompatible(
                "an implicit solver is not differentiated twice: got a backward pass with create_graph=True, "
                "expected one without; for second derivatives write an explicit solver, e.g. solver='dopri5'"
            )
        return _transposed(ctx.image, ctx.leaf, g, ctx.kind), None, None, None


def _transposed(image: Tensor, leaf: Tensor, g: Tensor, kind: Kind) -> Tensor:
    """``v`` of ``v - image_z^T v = g``."""
    flat = columns(g)

    def product(v: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(image, leaf, v.reshape(image.shape), retain_graph=True, allow_unused=True)
        return v if pulled is None else v - columns(pulled)

    precision = torch.finfo(g.dtype).eps
    if kind == "exact":
        slopes = rows(image, leaf)
        matrix = torch.eye(flat.shape[1]).to(flat) - slopes.mT
        v = torch.linalg.solve_ex(matrix, flat[..., None])[0][..., 0]
    else:
        v = gmres(product, flat, 30 * precision)
    check(v, flat, product(v), precision)
    return v.reshape(g.shape)


def check(v: Tensor, g: Tensor, found: Tensor, precision: float) -> None:
    """Raises where ``v`` does not solve the transposed system to the square root of the precision.

    Raises:
        SolveFailed: the samples depend on one another, or the system is singular.
    """
    scale = g.norm() + v.norm() + (found - v).norm()
    if bool(torch.isfinite(g).all()) and not bool((found - g).norm() <= precision**0.5 * scale):
        raise SolveFailed(
            "the linear system of the implicit gradient was not solved: samples of the batch depend on one another "
            "(batch norm, a mean over the batch), or the step is singular; write gradient='backprop' with an explicit "
            "solver",
            status="newton failed",
        )


def check_state(name: str, x: Tensor) -> None:
    """Refuses what no implicit solver can do.

    Raises:
        Incompatible: a complex or half-precision state, autocast, or a transform of ``torch.func``.
    """
    if x.is_complex():
        raise Incompatible(
            f"solver {name}: got a complex state, expected a real one; write torch.view_as_real(x) and a real field"
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise InvalidOption(f"solver {name}: got dtype {x.dtype}, expected float32 or float64; write x0.float()")
    if torch.is_autocast_enabled(x.device.type):
        raise Incompatible(
            f"solver {name}: got autocast, under which its iteration does not converge; write "
            "torch.autocast(..., enabled=False) around the flow"
        )
    if torch._C._are_functorch_transforms_active():
        raise Incompatible(
            f"solver {name}: got a transform of torch.func (grad, vjp, jvp, vmap), expected plain autograd; write "
            "torch.autograd.grad, or an explicit solver, e.g. solver='rk4'"
        )
