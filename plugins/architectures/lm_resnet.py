"""LM-ResNet: a linear two-step method with a trained coefficient a block."""

from __future__ import annotations

from typing import ClassVar

from odeframe.flow import Choice
from odeframe_plugins.architectures.staged import Staged


class LMResNet(Staged):
    """``x_{k+1} = (1 - c_k) x_k + c_k x_{k-1} + h (1 + c_k) f(x_k, theta_k)`` with a trained ``c_k`` for each block.

    Order 1, and 2 in the limit ``c = 1``.  ``|c_k| <= 0.95``, so that no trained coefficient leaves zero-stability
    (roots 1 and ``-c``).  The first step of a stage is a plain residual one, and what a stage remembers ends with it.

    Args:
        width, blocks, stages, step: as for ``resnet``.

    Options of the coefficients are the solver's: ``solver: {name: lm, init: 0.5, delta: 0.05}``.

    Source: Lu et al. 2018, Beyond Finite Layer Neural Networks, section 3; with ``f`` scaled by ``1 + c``, which makes
    it consistent with the step ``h``.
    """

    name = "lm_resnet"
    vector_block: ClassVar[Choice] = {"name": "mlp", "activation": "relu", "preactivate": True}
    defaults: ClassVar[dict[str, Choice]] = {"solver": "lm"}
