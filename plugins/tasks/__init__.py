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
}
