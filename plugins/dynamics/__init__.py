"""Vector fields f(t, x, u)."""

from odeframe import Part

PARTS = {
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
    "imex_conv": Part(
        "odeframe_plugins.dynamics.imex_conv:IMEXConv",
        traits=("image", "semilinear"),
        summary="f(x) = -L x + F(x) on images, L a circular convolution inverted by FFT, F as conv",
        source="Haber et al. 2019, IMEXnet",
    ),
    "branched_mlp": Part(
        "odeframe_plugins.dynamics.branched:BranchedMLP",
        traits=("vector", "branched"),
        summary="the mean of perceptrons on vectors, mixed at random by the solver shake",
        source="Gastaldi 2017, Shake-Shake regularization",
    ),
    "branched_conv": Part(
        "odeframe_plugins.dynamics.branched:BranchedConv",
        traits=("image", "branched"),
        summary="the mean of convolutional blocks on images, mixed at random by the solver shake",
        source="Gastaldi 2017, Shake-Shake regularization",
    ),
    "diffusion_mlp": Part(
        "odeframe_plugins.dynamics.diffusion:DiffusionMLP",
        traits=("vector", "stochastic_dynamics"),
        summary="drift and diagonal diffusion on vectors, for stochastic differential equations",
        source="Li et al. 2020, Scalable Gradients for Stochastic Differential Equations",
    ),
}
