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
    "durr": Part(
        "odeframe_plugins.architectures.durr:DURR",
        traits=("stopped", "restoring"),
        # no implicit solver: the equation of a step of length 1 need not have a solution
        needs=("task=restoration", "solver:step", "solver:!implicit", "trainer=moving_endpoint|gradient"),
        summary="images restored by one shared residual step, as often as a policy says for each",
        source="Zhang, Lu, Liu, Dong 2019, Dynamically Unfolding Recurrent Restorer",
        facts={
            "scheme": "forward Euler",
            "order": "1",
            "property": "the end time is a control too: a worse image goes on for longer",
        },
    ),
    "particle_flow": Part(
        "odeframe_plugins.architectures.particle_flow:ParticleFlow",
        traits=("particles", "vector_states"),
        needs=("data:stream", "dynamics:particles", "control:!closed_loop", "trainer=gradient", "task=filtering"),
        summary="Bayes' rule as a flow of particles, conditioned on an observation and a summary of the particles",
        source="Chen, Dai, Song 2019, Particle Flow Bayes' Rule",
        facts={
            "scheme": "any; rk4",
            "order": "the solver's",
            "property": "one operator for all observations; particles never collapse, since a flow is one-to-one",
        },
    ),
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
