"""Named recipes: stem, flows, transitions, head."""

from odeframe import Part

PARTS = {
    "resnet": Part(
        "odeframe_plugins.architectures.resnet:ResNet",
        summary="pre-activation ResNet: forward Euler, a piece of control a step, stages with transitions",
        source="He et al. 2016, Identity Mappings in Deep Residual Networks",
    ),
    "neural_ode": Part(
        "odeframe_plugins.architectures.neural_ode:NeuralODE",
        summary="one block, constant control, adaptive solver",
        source="Chen et al. 2018, Neural Ordinary Differential Equations",
    ),
}
