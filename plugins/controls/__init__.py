"""How the parameters depend on depth."""

from odeframe import Part

PARTS = {
    "constant": Part(
        "odeframe_plugins.controls.constant:Constant",
        traits=("open_loop", "tied"),
        summary="one set of weights for all depths",
        source="Chen et al. 2018, Neural Ordinary Differential Equations",
    ),
    "piecewise_constant": Part(
        "odeframe_plugins.controls.piecewise_constant:PiecewiseConstant",
        traits=("open_loop", "piecewise"),
        summary="a set of weights for each of `pieces` equal intervals of depth",
        source="He et al. 2016, Deep Residual Learning for Image Recognition",
    ),
}
