"""How d loss / d control is had from a solve."""

from odeframe import Part

PARTS = {
    "backprop": Part(
        "odeframe_plugins.gradients.backprop:Backprop",
        traits=("exact",),
        needs=("solver:!forward_only",),
        summary="differentiates the steps that were taken; memory grows with depth",
        source="discretise-then-optimise",
    ),
    "adjoint": Part(
        "odeframe_plugins.gradients.adjoint:Adjoint",
        traits=("continuous",),
        needs=(
            "solver:!stochastic",
            "solver:!partitioned",
            "solver:!per_sample",
            "dynamics:!batch_norm",
            "dynamics:!dropout",
        ),
        summary="solves the adjoint equation backwards; memory does not grow with depth",
        source="Pontryagin 1962; Chen et al. 2018, Neural Ordinary Differential Equations, appendix B",
    ),
}
