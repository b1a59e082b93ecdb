"""Named recipes: stem, flows, transitions, head."""

from odeframe import Part
from odeframe_plugins.architectures import found, stable

PARTS = {
    "resnet": Part(
        "odeframe_plugins.architectures.resnet:ResNet",
        summary="pre-activation ResNet: forward Euler, a piece of control a step, stages with transitions",
        source="He et al. 2016, Identity Mappings in Deep Residual Networks",
        facts={"scheme": "forward Euler", "order": "1", "property": "x + h f is a step: depth is time"},
    ),
    "neural_ode": Part(
        "odeframe_plugins.architectures.neural_ode:NeuralODE",
        summary="one block, constant control, adaptive solver",
        source="Chen et al. 2018, Neural Ordinary Differential Equations",
        facts={
            "scheme": "any; dopri5",
            "order": "the solver's",
            "property": "a homeomorphism of the state space: paths do not cross",
        },
    ),
    **found.PARTS,
    **stable.PARTS,
    "controlled_system": Part(
        "odeframe_plugins.architectures.controlled_system:ControlledSystem",
        traits=("bare",),
        needs=("dynamics:control_system", "task=control"),
        summary="a system under control as it is, without stem and head: the input is what is trained",
        source="Bryson, Ho 1975, Applied Optimal Control",
        facts={
            "scheme": "any; rk4",
            "order": "the solver's",
            "property": "open loop reaches the Riccati optimum from one start, feedback from all",
        },
    ),
}
