"""The table of networks designed for stability, and of continuous ones in larger states."""

from odeframe import Part

NETWORKS = "odeframe_plugins.architectures.stable_networks"
CONTINUOUS = "odeframe_plugins.architectures.continuous"

PARTS = {
    "antisymmetric": Part(
        f"{NETWORKS}:Antisymmetric",
        summary="act((K - K^T - gamma I) x + b) as the block: neither growth nor decay is built in",
        source="Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks",
        facts={
            "scheme": "forward Euler",
            "order": "1",
            "property": "eigenvalues of the Jacobian have real parts <= 0: no exponential growth (no isometry)",
        },
    ),
    "midpoint": Part(
        f"{NETWORKS}:Midpoint",
        summary="x_{k+1} = x_{k-1} + 2 h f(x_k) with an antisymmetric block: reversible",
        source="Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual Neural Networks",
        facts={
            "scheme": "two-step midpoint (leapfrog) rule, first step Euler's",
            "order": "2 within a piece of the control",
            "property": "each step is undone exactly; stable on imaginary eigenvalues for h |omega| < 1",
        },
    ),
    "hamiltonian": Part(
        f"{NETWORKS}:Hamiltonian",
        summary="two halves that move each other by K^T act(K .): reversible, volume is preserved",
        source="Chang et al. 2018; one layer: Haber, Ruthotto 2017",
        facts={
            "scheme": "symplectic Euler; solver verlet has order 2",
            "order": "1",
            "property": "symplectic with two layers, each step is undone exactly: nothing decays exponentially",
        },
    ),
    "parabolic": Part(
        f"{NETWORKS}:Parabolic",
        summary="x - h K^T act(K x + b): a heat equation, which contracts",
        source="Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations",
        facts={
            "scheme": "forward Euler",
            "order": "1",
            "property": "|x(T) - y(T)| <= |x(0) - y(0)|, for steps h <= 2 / (max act' |K|^2)",
        },
    ),
    "hyperbolic": Part(
        f"{NETWORKS}:Hyperbolic",
        needs=("solver:second_order",),  # under one of first order x' = F(x) is parabolic
        summary="x'' = -K^T act(K x + b) by leapfrog: a wave equation, which keeps its energy",
        source="Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations",
        facts={
            "scheme": "leapfrog (Stoermer) from rest",
            "order": "2 within a piece of the control",
            "property": "each step is undone exactly; stable for h |K| < 2",
        },
    ),
    "leapfrog": Part(
        f"{NETWORKS}:Leapfrog",
        needs=("solver:second_order",),  # under one of first order x' = F(x) is parabolic
        summary="2 x_k - x_{k-1} + h^2 F(x_k), F = -K^T tanh(K x + b): hyperbolic's scheme with a smooth block",
        source="Haber, Ruthotto 2017; Chang et al. 2018",
        facts={
            "scheme": "leapfrog (Stoermer) from rest",
            "order": "2 within a piece of the control",
            "property": "each step is undone exactly; stable for h |K| < 2",
        },
    ),
    "imexnet": Part(
        f"{NETWORKS}:IMEXNet",
        summary="(I + h L)^{-1} (x + h L x + h F(x)): every pixel sees every other after one layer",
        source="Haber, Lensink, Treister, Ruthotto 2019, IMEXnet",
        facts={
            "scheme": "semi-implicit (IMEX) Euler",
            "order": "1",
            "property": "a global field of view in one layer; stable for steps where forward Euler is not",
        },
    ),
    "antisymmetric_rnn": Part(
        "odeframe_plugins.architectures.antisymmetric_rnn:AntisymmetricRNN",
        traits=("sequence",),
        needs=("dynamics:driven", "data:sequence"),
        summary="h + step tanh((W - W^T - gamma I) h + V w + b): a flow of the hidden state, driven by a sequence",
        source="Chang, Chen, Haber, Chi 2019, AntisymmetricRNN",
        facts={
            "scheme": "forward Euler, a step an item",
            "order": "1",
            "property": "gradients through a long sequence neither explode nor vanish exponentially for small steps",
        },
    ),
    "pdenet": Part(
        "odeframe_plugins.architectures.pdenet:PDENet",
        traits=("pde",),
        needs=("dynamics:pde", "data:observations", "solver:!trainable"),  # a net would see the records too
        summary="u_t = sum c_ij D_ij u found from u at several times",
        source="Long, Lu, Ma, Dong 2018, PDE-Net: Learning PDEs from Data",
        facts={
            "scheme": "rk4; the published block is forward Euler",
            "order": "4",
            "property": "the coefficients of the equation are read from the weights",
        },
    ),
    "cnf": Part(
        "odeframe_plugins.architectures.cnf:CNF",
        traits=("density", "one_flow"),
        needs=("data:vector", "task=density", "solver:!partitioned", "solver:!second_order"),  # one velocity
        summary="continuous normalising flow: a density by the divergence of the field",
        source="Grathwohl et al. 2019, FFJORD; Chen et al. 2018, section 4",
        facts={
            "scheme": "any; dopri5",
            "order": "the solver's",
            "property": "a diffeomorphism whose log-density is integrated beside the state",
        },
    ),
    "cnf_image": Part(
        "odeframe_plugins.architectures.cnf_image:CNFImage",
        traits=("density",),
        when={"scales=1": {"traits": ("one_flow",)}},
        needs=(
            *("data:image", "task=density", "solver:!partitioned", "solver:!second_order"),
            "solver:!implicit",  # their exact Jacobians of a part that moves and a part that rests
            *("dynamics:!separable", "dynamics:!halves"),  # a scale may have an odd number of channels
            *("dynamics:!semilinear", "dynamics:!branched", "dynamics:!stochastic_dynamics"),  # part of the state rests
        ),
        summary="continuous normalising flow of images on several scales, half of the channels factored out at each",
        source="Grathwohl et al. 2019, FFJORD, section 4.2; Dinh et al. 2017, Real NVP",
        facts={
            "scheme": "any; dopri5",
            "order": "the solver's",
            "property": "a diffeomorphism whose log-density is integrated beside the state; squeezes are permutations",
        },
    ),
    "augmented_neural_ode": Part(
        f"{CONTINUOUS}:AugmentedNeuralODE",
        needs=("dynamics:!separable", "dynamics:!halves"),  # its width is the input's and a few more, odd or even
        summary="a Neural ODE on samples with zeros appended, no stem, a linear head on all of the state",
        source="Dupont, Doucet, Teh 2019, Augmented Neural ODEs",
        facts={
            "scheme": "any; dopri5",
            "order": "the solver's",
            "property": "paths pass each other in the added dimensions: maps that are no homeomorphism",
        },
    ),
    "second_order_ode": Part(
        f"{CONTINUOUS}:SecondOrderODE",
        needs=("dynamics:acceleration",),
        summary="x'' = f(t, x, x'): a Neural ODE on position and velocity",
        source="Norcliffe et al. 2020, On Second Order Behaviour in Augmented Neural ODEs",
        facts={
            "scheme": "any; dopri5",
            "order": "the solver's",
            "property": "positions may cross, since velocities differ; oscillations need no extra features",
        },
    ),
}
