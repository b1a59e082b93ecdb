"""How the parameters depend on depth."""

from odeframe import Part

AROUND_CONSTANT = {"of=constant": {"traits": ("open_loop", "tied")}}  # what they wrap where nothing is said
MATRICES = ("dynamics:!control_system",)  # whose one parameter is a vector, the input
LAYERS = ("dynamics:!bare_weights",)  # whose weights are in no linear layer or convolution that could be told anything
# Stencils, and layers from few components to many, are not square.
SQUARE = ("dynamics:!pde", "architecture:!density", "architecture:!restoring")
MODULATED = {"size=None": {"needs": LAYERS}}  # without an input of its own a policy modulates layers

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
    "piecewise_linear": Part(
        "odeframe_plugins.controls.piecewise_linear:PiecewiseLinear",
        traits=("open_loop", "tied", "time_varying"),
        summary="weights that go linearly between knots, one at each end of `pieces` equal intervals",
        source="Queiruga et al. 2021, Stateful ODE-Nets using Basis Function Expansions",
    ),
    "galerkin": Part(
        "odeframe_plugins.controls.galerkin:Galerkin",
        traits=("open_loop", "tied", "time_varying"),
        summary="weights that are a series in depth: legendre, chebyshev, fourier or bspline, of any degree",
        source="Massaroli et al. 2020, Dissecting Neural ODEs, 3.1",
    ),
    "hypernetwork": Part(
        "odeframe_plugins.controls.hypernetwork:Hypernetwork",
        traits=("open_loop", "tied", "time_varying"),
        summary="weights that a small net makes from the time, in full or by low-rank factors",
        source="Ha, Dai, Le 2017, HyperNetworks",
    ),
    "time_concat": Part(
        "odeframe_plugins.controls.time_concat:TimeConcat",
        traits=("open_loop", "tied", "time_varying"),
        needs=(*MATRICES, *LAYERS),
        summary="the time as an input of every affine layer: biases linear in t",
        source="Chen et al. 2018, Neural Ordinary Differential Equations",
    ),
    "feedback": Part(
        "odeframe_plugins.controls.feedback:Feedback",
        traits=("closed_loop",),
        needs=("solver:!partitioned",),
        when={**AROUND_CONSTANT, **MODULATED},
        summary="a policy u = pi(t, x): an input of the dynamics, or a scale and shift of its layers, for each sample",
        source="Perez et al. 2018, FiLM; Kirk 1970, Optimal Control Theory, 3.12",
    ),
    "feedback_summary": Part(
        "odeframe_plugins.controls.feedback_summary:FeedbackSummary",
        traits=("closed_loop", "mean_field"),
        needs=("solver:!partitioned",),
        when={**AROUND_CONSTANT, **MODULATED},
        summary="a policy that sees a summary of the whole batch too",
        source="Zaheer et al. 2017, Deep Sets; Carmona, Delarue 2018",
    ),
    "binary": Part(
        "odeframe_plugins.controls.quantised:Binary",
        traits=("constrained", "discrete"),
        needs=MATRICES,
        when=AROUND_CONSTANT,
        summary="weights of two values and a scale, around the control `of`; straight-through gradient",
        source="Rastegari et al. 2016, XNOR-Net",
    ),
    "ternary": Part(
        "odeframe_plugins.controls.quantised:Ternary",
        traits=("constrained", "discrete"),
        needs=MATRICES,
        when=AROUND_CONSTANT,
        summary="weights of three values and a scale, around the control `of`; straight-through gradient",
        source="Li, Zhang, Liu 2016, Ternary Weight Networks",
    ),
    "box": Part(
        "odeframe_plugins.controls.box:Box",
        traits=("constrained",),
        when=AROUND_CONSTANT,
        summary="weights within bounds, around the control `of`, by projection after each optimiser step",
        source="Goldstein 1964",
    ),
    "antisymmetric": Part(
        "odeframe_plugins.controls.antisymmetric:Antisymmetric",
        traits=("constrained",),
        needs=(*MATRICES, *SQUARE),
        when=AROUND_CONSTANT,
        summary="V - V^T - gamma I for square matrices and kernels, around the control `of`",
        source="Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks",
    ),
    "spectral_norm": Part(
        "odeframe_plugins.controls.spectral_norm:SpectralNorm",
        traits=("constrained",),
        needs=MATRICES,
        when=AROUND_CONSTANT,
        summary="matrices and kernels of bounded norm, around the control `of`",
        source="Miyato et al. 2018, Spectral Normalization for GANs",
    ),
}
