"""The residual network whose activation stands after the sum: Euler's step and a projection."""

from __future__ import annotations

from typing import ClassVar

from odeframe.flow import Choice
from odeframe_plugins.architectures.staged import Staged


class ProjectedResNet(Staged):
    """``x_{k+1} = relu(x_k + h f(x_k, theta_k))``: the post-activation ResNet, which is not Euler's method for ``f``.

    The activation after the sum is the projection on ``x >= 0``: the scheme is projected Euler, its limit a system that
    is held within the orthant.  With another solver it is the continuous twin without the projection, another network.

    Args:
        width, blocks, stages, step: as for ``resnet``.

    Source: He et al. 2015, Deep Residual Learning for Image Recognition, section 3.2.
    """

    name = "projected_resnet"
    normed = False
    vector_block: ClassVar[Choice] = {"name": "mlp", "activation": "relu"}
    image_block: ClassVar[Choice] = "post_conv"
    defaults: ClassVar[dict[str, Choice]] = {"solver": "projected_euler"}
