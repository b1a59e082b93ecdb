"""The pre-activation residual network: forward Euler with a piece of control a step."""

from __future__ import annotations

from typing import ClassVar

from odeframe.flow import Choice
from odeframe_plugins.architectures.staged import Staged


class ResNet(Staged):
    """``x_{k+1} = x_k + h f(x_k, theta_k)`` with ``h = 1``: forward Euler, order 1.

    Images pass through ``stages`` flows of ``blocks`` steps each, with twice the channels and half the resolution in
    each next one; vectors through one by default.

    Args:
        width: channels or features of the first stage.
        blocks: residual blocks a stage, the steps of its flow.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step; the horizon of each flow is ``blocks * step``.

    Source: He et al. 2016, Identity Mappings in Deep Residual Networks.
    """

    name = "resnet"
    vector_block: ClassVar[Choice] = {"name": "mlp", "activation": "relu", "preactivate": True}
