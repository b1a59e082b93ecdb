"""Vector fields f(t, x, u)."""

from odeframe import Part
from odeframe_plugins.dynamics import residual

# An optimal control problem is solved as it is, by a scheme that treats the state as one vector.
SYSTEM = ("architecture:bare", "solver:!partitioned")

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
        traits=("vector", "separable", "bare_weights"),
        summary="y' = K1^T act(K1 z + b1), z' = -K2^T act(K2 y + b2): two halves that move each other",
        source="Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual Neural Networks",
    ),
    "hamiltonian_conv": Part(
        "odeframe_plugins.dynamics.hamiltonian:HamiltonianConv",
        traits=("image", "separable", "bare_weights"),
        summary="y' = K1^T act(K1 z + b1), z' = -K2^T act(K2 y + b2) on images, with convolutions",
        source="Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual Neural Networks",
    ),
    "antisymmetric_mlp": Part(
        "odeframe_plugins.dynamics.antisymmetric:AntisymmetricMLP",
        traits=("vector", "bare_weights"),
        summary="f(x) = act((K - K^T - gamma I) x + b): eigenvalues with real parts <= 0",
        source="Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks",
    ),
    "antisymmetric_conv": Part(
        "odeframe_plugins.dynamics.antisymmetric:AntisymmetricConv",
        traits=("image", "bare_weights"),
        summary="f(x) = act((K - K^T - gamma I) x + b) on images, with a convolution and its exact transpose",
        source="Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks",
    ),
    "acceleration_mlp": Part(
        "odeframe_plugins.dynamics.acceleration:AccelerationMLP",
        traits=("vector", "halves", "acceleration"),
        summary="x'' = f(t, x, x') on vectors, the state holds position and velocity",
        source="Norcliffe et al. 2020, On Second Order Behaviour in Augmented Neural ODEs",
    ),
    "acceleration_conv": Part(
        "odeframe_plugins.dynamics.acceleration:AccelerationConv",
        traits=("image", "halves", "acceleration"),
        summary="x'' = f(t, x, x') on images, the state holds position and velocity",
        source="Norcliffe et al. 2020, On Second Order Behaviour in Augmented Neural ODEs",
    ),
    "antisymmetric_cell": Part(
        "odeframe_plugins.dynamics.recurrent:AntisymmetricCell",
        traits=("vector", "driven"),
        needs=("architecture:sequence",),
        summary="tanh((W - W^T - gamma I) h + V w + b), driven by a sequence w, with a gate or without",
        source="Chang, Chen, Haber, Chi 2019, AntisymmetricRNN",
    ),
    "elman_cell": Part(
        "odeframe_plugins.dynamics.recurrent:ElmanCell",
        traits=("vector", "driven"),
        needs=("architecture:sequence",),
        summary="tanh(W h + V w + b) - h: with Euler's step of length 1 the plain recurrent network",
        source="Elman 1990, Finding Structure in Time",
    ),
    "pde_conv": Part(
        "odeframe_plugins.dynamics.pde_conv:PDEConv",
        traits=("image", "pde", "bare_weights"),
        needs=("architecture:pde",),
        summary="sum c_ij D_ij u with convolutions that are derivatives by their moments",
        source="Long, Lu, Ma, Dong 2018, PDE-Net",
    ),
    "concat_squash": Part(
        "odeframe_plugins.dynamics.concat_squash:ConcatSquash",
        traits=("vector",),
        needs=("control:!closed_loop",),  # its layers of the time alone have no sample to feed back
        summary="layers gated and shifted by the time, on vectors: the field of a normalising flow",
        source="Grathwohl et al. 2019, FFJORD, appendix B.1",
    ),
    "concat_squash_conv": Part(
        "odeframe_plugins.dynamics.concat_squash_conv:ConcatSquashConv",
        traits=("image",),
        needs=("control:!closed_loop",),
        summary="convolutions gated and shifted by the time, on images: the field of a normalising flow",
        source="Grathwohl et al. 2019, FFJORD, appendix B.1",
    ),
    "coupled_mlp": Part(
        "odeframe_plugins.dynamics.hamiltonian:CoupledMLP",
        traits=("vector", "separable"),
        summary="y' = F(z), z' = G(y) with perceptrons F and G: RevNet's block",
        source="Gomez et al. 2017, The Reversible Residual Network",
    ),
    "symmetric_mlp": Part(
        "odeframe_plugins.dynamics.hamiltonian:SymmetricMLP",
        traits=("vector", "second_order", "bare_weights"),
        summary="F(x) = -K^T act(K x + b): hyperbolic under leapfrog, parabolic under euler",
        source="Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations",
    ),
    "symmetric_conv": Part(
        "odeframe_plugins.dynamics.hamiltonian:SymmetricConv",
        traits=("image", "second_order", "bare_weights"),
        summary="F(x) = -K^T act(K x + b) on images: hyperbolic under leapfrog, parabolic under euler",
        source="Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations",
    ),
    "imex_mlp": Part(
        "odeframe_plugins.dynamics.imex_mlp:IMEXMLP",
        traits=("vector", "semilinear"),
        summary="f(x) = -L x + F(x) on vectors, L = B^T B, F as mlp",
        source="Haber et al. 2019, IMEXnet",
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
    "particle_field": Part(
        "odeframe_plugins.dynamics.particle_fields:ParticleField",
        traits=("driven", "particles"),
        needs=("architecture:particles", "solver:!partitioned"),
        summary="an affine field and a perceptron, conditioned on an observation and a summary of the particles",
        source="Chen, Dai, Song 2019, Particle Flow Bayes' Rule",
    ),
    "affine_particle_field": Part(
        "odeframe_plugins.dynamics.particle_fields:AffineParticleField",
        traits=("driven", "particles"),
        needs=("architecture:particles", "solver:!partitioned"),
        summary="A(t, c) x + b(t, c) of an observation and a summary of the particles: exact for normal posteriors",
        source="Chen, Dai, Song 2019, Particle Flow Bayes' Rule",
    ),
    **residual.PARTS,
    "linear_quadratic": Part(
        "odeframe_plugins.dynamics.linear_quadratic:LinearQuadratic",
        traits=("vector", "control_system"),
        needs=SYSTEM,
        when={"A=((0.0, 1.0), (1.0, 0.0))": {"needs": ("data:planar",)}},  # a matrix of one's own has any size
        summary="x' = A x + B u with quadratic costs; the optimum is Riccati's",
        source="Kalman 1960, Contributions to the Theory of Optimal Control",
    ),
    "double_integrator": Part(
        "odeframe_plugins.dynamics.linear_quadratic:DoubleIntegrator",
        traits=("vector", "control_system"),
        needs=(*SYSTEM, "data:planar"),
        summary="a mass brought to rest by the least energy",
        source="Bryson, Ho 1975, Applied Optimal Control, 5.3",
    ),
    "pendulum_swing_up": Part(
        "odeframe_plugins.dynamics.pendulum:PendulumSwingUp",
        traits=("vector", "control_system"),
        needs=(*SYSTEM, "data:planar"),
        summary="a pendulum swung from hanging to upright",
        source="Astrom, Furuta 2000, Swinging Up a Pendulum by Energy Control",
    ),
    "mean_field_linear_quadratic": Part(
        "odeframe_plugins.dynamics.mean_field:MeanFieldLinearQuadratic",
        traits=("vector", "control_system", "mean_field"),
        needs=(*SYSTEM, "data:population"),
        summary="a population moved and judged by its mean too; the optimum is that of two Riccati equations",
        source="Yong 2013; Carmona, Delarue 2018, 6.7",
    ),
}
