"""How d loss / d control is had from a solve."""

from odeframe import Part

PARTS = {
    "backprop": Part(
        "odeframe_plugins.gradients.backprop:Backprop",
        traits=("exact", "sharded"),
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
            "solver:!second_order",
            "solver:!per_sample",
            "solver:!trainable",
            "dynamics:!batch_norm",
            "dynamics:!dropout",
        ),
        summary="solves the adjoint equation backwards; memory does not grow with depth",
        source="Pontryagin 1962; Chen et al. 2018, Neural Ordinary Differential Equations, appendix B",
    ),
    "interpolated_adjoint": Part(
        "odeframe_plugins.gradients.interpolated_adjoint:InterpolatedAdjoint",
        traits=("continuous",),
        needs=(
            "solver:adaptive",
            "solver:!foreign",
            "solver:!forward_only",
            "solver:!per_sample",
            "dynamics:!batch_norm",
            "dynamics:!dropout",
        ),
        summary="solves the adjoint equation along the kept forward trajectory; memory grows with the accepted steps",
        source="Daulbaev et al. 2020, Interpolation Technique to Speed Up Gradients Propagation in Neural ODEs",
    ),
    "checkpoint": Part(
        "odeframe_plugins.gradients.checkpoint:Checkpoint",
        traits=("exact",),
        needs=("solver:!forward_only", "solver:!per_sample", "solver:!foreign", "dynamics:!batch_norm"),
        summary="backprop that takes steps again from a few kept states; memory grows like the square root of depth",
        source="Griewank, Walther 2000; Gholami et al. 2019; Zhuang et al. 2020",
    ),
    "reversible": Part(
        "odeframe_plugins.gradients.reversible:Reversible",
        traits=("exact",),
        needs=("solver:reversible", "dynamics:!batch_norm", "dynamics:!dropout"),
        summary="undoes the steps of a reversible solver; memory does not grow with depth",
        source="Gomez et al. 2017; Zhuang et al. 2021",
    ),
}
