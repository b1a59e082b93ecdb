"""How a batch improves the control."""

from odeframe import Part

PARTS = {
    "gradient": Part(
        "odeframe_plugins.trainers.gradient:GradientTrainer",
        traits=("automatic", "ddp"),
        summary="stochastic gradient descent by any torch optimiser",
        source="Robbins, Monro 1951",
    ),
}
