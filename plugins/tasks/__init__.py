"""What is asked."""

from odeframe import Part

PARTS = {
    "classification": Part(
        "odeframe_plugins.tasks.classification:Classification",
        needs=("data:classes",),
        summary="cross-entropy, accuracy",
    ),
    "regression": Part(
        "odeframe_plugins.tasks.regression:Regression",
        needs=("data:values",),
        summary="mean squared error, R2",
    ),
    "density": Part(
        "odeframe_plugins.tasks.density:Density",
        needs=("architecture:density",),
        summary="maximum likelihood: log_prob(x), sample(n); nll in nats, bits per dimension",
        source="Chen et al. 2018, Neural Ordinary Differential Equations, 4; Grathwohl et al. 2019, FFJORD",
    ),
    "restoration": Part(
        "odeframe_plugins.tasks.restoration:Restoration",
        needs=("data:degraded", "architecture:restoring"),
        summary="a clean image from a degraded one: restore(images); peak signal-to-noise ratio, mean stop time",
        source="Zhang, Lu, Liu, Dong 2019, Dynamically Unfolding Recurrent Restorer",
    ),
    "filtering": Part(
        "odeframe_plugins.tasks.filtering:Filtering",
        needs=("architecture:particles", "data:stream"),
        summary="Bayesian filtering: assimilate(particles, observation); errors of mean and covariance",
        source="Chen, Dai, Song 2019, Particle Flow Bayes' Rule",
    ),
    "control": Part(
        "odeframe_plugins.tasks.control:Control",
        needs=("data:initial_states", "dynamics:control_system", "architecture:bare"),
        summary="optimal control: find the input of a system that costs least; gap to the optimum, residuals",
        source="Bryson, Ho 1975, Applied Optimal Control",
    ),
}
