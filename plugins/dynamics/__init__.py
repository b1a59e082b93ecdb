"""Vector fields f(t, x, u)."""

from odeframe import Part

PARTS = {
    "mlp": Part(
        "odeframe_plugins.dynamics.mlp:MLP",
        traits=("vector",),
        summary="f(t, x) = W2 act(W1 x + b1) + b2 on vectors; with preactivate, act(x) in place of x",
        source="He et al. 2016, Identity Mappings in Deep Residual Networks",
    ),
    "conv": Part(
        "odeframe_plugins.dynamics.conv:Conv",
        traits=("image",),
        summary="f(x) = conv(act(norm(conv(act(norm(x)))))) on images, pre-activation",
        source="He et al. 2016, Identity Mappings in Deep Residual Networks",
    ),
    "hamiltonian_mlp": Part(
        "odeframe_plugins.dynamics.hamiltonian:HamiltonianMLP",
        traits=("vector", "separable"),
        summary="y' = K1^T act(K1 z + b1), z' = -K2^T act(K2 y + b2): two halves that move each other",
        source="Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual Neural Networks",
    ),
    "coupled_mlp": Part(
        "odeframe_plugins.dynamics.hamiltonian:CoupledMLP",
        traits=("vector", "separable"),
        summary="y' = F(z), z' = G(y) with perceptrons F and G: RevNet's block",
        source="Gomez et al. 2017, The Reversible Residual Network",
    ),
    "symmetric_mlp": Part(
        "odeframe_plugins.dynamics.hamiltonian:SymmetricMLP",
        traits=("vector", "second_order"),
        summary="F(x) = -K^T act(K x + b): hyperbolic under leapfrog, parabolic under euler",
        source="Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations",
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
