"""Schemes that cross an interval."""

from odeframe import Part
from odeframe_plugins.solvers import geometric, residual

TORCHDIFFEQ_ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver")

ALONE = ("dynamics:!mean_field", "dynamics:!batch_norm", "control:!mean_field")  # one sample without the others
PER_SAMPLE_NEEDS = (*ALONE, "control:!time_varying")  # each at its own time, and weights are one set for all
PER_SAMPLE = {"per_sample=True": {"traits": ("per_sample",), "needs": PER_SAMPLE_NEEDS}}

IMPLICIT_NEEDS = (*ALONE, "dynamics:!dropout")

PARTS = {
    "euler": Part(
        "odeframe_plugins.solvers.explicit:Euler",
        traits=("step",),
        summary="forward Euler, order 1: the residual block",
        source="Hairer, Norsett, Wanner 1993, II.1",
    ),
    "midpoint": Part(
        "odeframe_plugins.solvers.explicit:Midpoint",
        traits=("step",),
        summary="the explicit midpoint rule, order 2",
        source="Runge 1895; Hairer, Norsett, Wanner 1993, II.1",
    ),
    "heun": Part(
        "odeframe_plugins.solvers.explicit:Heun",
        traits=("step",),
        summary="the explicit trapezoidal rule, order 2",
        source="Heun 1900; Shu, Osher 1988",
    ),
    "ralston": Part(
        "odeframe_plugins.solvers.explicit:Ralston",
        traits=("step",),
        summary="order 2 with the least error bound",
        source="Ralston 1962",
    ),
    "ssprk3": Part(
        "odeframe_plugins.solvers.explicit:SSPRK3",
        traits=("step",),
        summary="order 3, preserves strong stability",
        source="Shu, Osher 1988",
    ),
    "rk4": Part(
        "odeframe_plugins.solvers.explicit:RK4",
        traits=("step",),
        summary="the classical Runge-Kutta method, order 4",
        source="Hairer, Norsett, Wanner 1993, II.1",
    ),
    "rk38": Part(
        "odeframe_plugins.solvers.explicit:RK38",
        traits=("step",),
        summary="the 3/8 rule, order 4",
        source="Kutta 1901; Hairer, Norsett, Wanner 1993, II.1",
    ),
    "runge_kutta": Part(
        "odeframe_plugins.solvers.explicit:RungeKutta",
        traits=("step",),
        summary="any tableau on equal steps: {name: runge_kutta, method: tsit5, steps: 20}",
        source="Hairer, Norsett, Wanner 1993, II",
    ),
    "bosh3": Part(
        "odeframe_plugins.solvers.embedded:Bosh3",
        traits=("adaptive",),
        summary="Bogacki-Shampine 3(2), adaptive steps, for loose tolerances",
        source="Bogacki, Shampine 1989",
        when=PER_SAMPLE,
    ),
    "dopri5": Part(
        "odeframe_plugins.solvers.embedded:Dopri5",
        traits=("adaptive",),
        summary="Dormand-Prince 5(4), adaptive steps with dense output",
        source="Dormand, Prince 1980; Hairer, Norsett, Wanner 1993, II.4-II.6",
        when=PER_SAMPLE,
    ),
    "tsit5": Part(
        "odeframe_plugins.solvers.embedded:Tsit5",
        traits=("adaptive",),
        summary="Tsitouras 5(4), adaptive steps with dense output",
        source="Tsitouras 2011",
        when=PER_SAMPLE,
    ),
    "dopri8": Part(
        "odeframe_plugins.solvers.embedded:Dopri8",
        traits=("adaptive",),
        summary="Prince-Dormand 8(7), adaptive steps, for tight tolerances",
        source="Prince, Dormand 1981",
        when=PER_SAMPLE,
    ),
    "dop853": Part(
        "odeframe_plugins.solvers.embedded:Dop853",
        traits=("adaptive",),
        summary="Dormand-Prince 8(5,3), adaptive steps, dense output of order 7",
        source="Hairer, Norsett, Wanner 1993, II.5",
        when=PER_SAMPLE,
    ),
    "implicit_euler": Part(
        "odeframe_plugins.solvers.implicit:ImplicitEuler",
        traits=("step", "implicit"),
        needs=IMPLICIT_NEEDS,
        summary="backward Euler, order 1, L-stable: damps whatever is stiff",
        source="Hairer, Wanner 1996, IV.3",
    ),
    "trapezoid": Part(
        "odeframe_plugins.solvers.implicit:Trapezoid",
        traits=("step", "implicit", "reversible"),
        needs=IMPLICIT_NEEDS,
        summary="the implicit trapezoidal rule (Crank-Nicolson), order 2, A-stable, symmetric",
        source="Hairer, Wanner 1996, IV.3",
    ),
    "implicit_midpoint": Part(
        "odeframe_plugins.solvers.implicit:ImplicitMidpoint",
        traits=("step", "implicit", "symplectic", "reversible"),
        needs=IMPLICIT_NEEDS,
        summary="the implicit midpoint rule, order 2, A-stable, symplectic, symmetric",
        source="Hairer, Lubich, Wanner 2006, VI.4",
    ),
    "sdirk4": Part(
        "odeframe_plugins.solvers.sdirk:SDIRK4",
        traits=("adaptive", "implicit"),
        needs=IMPLICIT_NEEDS,
        summary="SDIRK 4(3), L-stable, for stiff problems at loose tolerances",
        source="Hairer, Wanner 1996, IV.6",
    ),
    "radau": Part(
        "odeframe_plugins.solvers.radau:Radau",
        traits=("adaptive", "implicit"),
        needs=IMPLICIT_NEEDS,
        summary="Radau IIA of order 5, L-stable: the first choice for stiff problems",
        source="Hairer, Wanner 1996, IV.8",
    ),
    "torchdiffeq": Part(
        "odeframe_plugins.solvers.torchdiffeq:Torchdiffeq",
        traits=("foreign",),
        summary="any method of torchdiffeq: {name: torchdiffeq, method: ...}",
        source="Chen 2018, torchdiffeq",
        when={
            **{f"method={method}": {"traits": ("adaptive",)} for method in TORCHDIFFEQ_ADAPTIVE},
            "method=scipy_solver": {"traits": ("adaptive", "forward_only")},
        },
        requires=("torchdiffeq",),
    ),
    "imex_euler": Part(
        "odeframe_plugins.solvers.imex:SemiImplicitEuler",
        traits=("step", "partitioned"),
        needs=("dynamics:semilinear",),
        summary="semi-implicit Euler for f = -L x + F(t, x), order 1: IMEXnet's layer",
        source="Ascher, Ruuth, Spiteri 1997; Haber et al. 2019, IMEXnet",
    ),
    "ars222": Part(
        "odeframe_plugins.solvers.imex:ARS222",
        traits=("step", "partitioned"),
        needs=("dynamics:semilinear",),
        summary="implicit-explicit Runge-Kutta for f = -L x + F(t, x), order 2, L-stable in L",
        source="Ascher, Ruuth, Spiteri 1997, section 2.6",
    ),
    "poly2": Part(
        "odeframe_plugins.solvers.polynet:Poly2",
        traits=("step", "partitioned"),
        summary="x + F(x) + F(F(x)), F = h f: PolyNet's poly-2",
        source="Zhang et al. 2017, PolyNet; Lu et al. 2018, Beyond Finite Layer Neural Networks",
    ),
    "poly3": Part(
        "odeframe_plugins.solvers.polynet:Poly3",
        traits=("step", "partitioned"),
        summary="x + F(x) + F(F(x)) + F(F(F(x))), F = h f: PolyNet's poly-3",
        source="Zhang et al. 2017, PolyNet",
    ),
    "mpoly2": Part(
        "odeframe_plugins.solvers.polynet:MPoly2",
        traits=("step", "partitioned"),
        summary="x + F(x) + G(F(x)) with two blocks a step: PolyNet's mpoly-2",
        source="Zhang et al. 2017, PolyNet",
    ),
    "mpoly3": Part(
        "odeframe_plugins.solvers.polynet:MPoly3",
        traits=("step", "partitioned"),
        summary="x + F(x) + G(F(x)) + H(G(F(x))) with three blocks a step: PolyNet's mpoly-3",
        source="Zhang et al. 2017, PolyNet",
    ),
    "two_way": Part(
        "odeframe_plugins.solvers.polynet:TwoWay",
        traits=("step", "partitioned"),
        summary="x + F(x) + G(x) with two blocks a step: PolyNet's 2-way",
        source="Zhang et al. 2017, PolyNet",
    ),
    "three_way": Part(
        "odeframe_plugins.solvers.polynet:ThreeWay",
        traits=("step", "partitioned"),
        summary="x + F(x) + G(x) + H(x) with three blocks a step: PolyNet's 3-way",
        source="Zhang et al. 2017, PolyNet",
    ),
    "truncated_backward_euler": Part(
        "odeframe_plugins.solvers.polynet:TruncatedBackwardEuler",
        traits=("step",),
        summary="backward Euler by `terms` fixed-point iterations, order 1: poly2 and poly3 where f is linear",
        source="Lu et al. 2018, Beyond Finite Layer Neural Networks",
    ),
    "fractal": Part(
        "odeframe_plugins.solvers.fractal:Fractal",
        traits=("step", "partitioned"),
        summary="columns of 1, 2, 4, ... Euler steps joined by their mean, with drop-path: FractalNet's block",
        source="Larsson, Maire, Shakhnarovich 2017, FractalNet",
        when={f"drop_path={kind}": {"traits": ("stochastic",)} for kind in ("local", "global", "mixed")},
    ),
    "bernoulli_euler": Part(
        "odeframe_plugins.solvers.stochastic:BernoulliEuler",
        traits=("step", "partitioned", "stochastic"),
        summary="Euler's step behind a coin: stochastic depth, or the scheme of its stochastic differential equation",
        source="Huang et al. 2016, Deep Networks with Stochastic Depth; Lu et al. 2018",
    ),
    "shake": Part(
        "odeframe_plugins.solvers.stochastic:Shake",
        traits=("step", "partitioned", "stochastic"),
        needs=("dynamics:branched",),
        summary="Euler's step for a random mixture of branches: shake-shake",
        source="Gastaldi 2017, Shake-Shake regularization; Lu et al. 2018",
        when={"surrogate=True": {"traits": ("surrogate_gradient",)}},
    ),
    "euler_maruyama": Part(
        "odeframe_plugins.solvers.stochastic:EulerMaruyama",
        traits=("step", "partitioned", "stochastic"),
        needs=("dynamics:stochastic_dynamics",),
        summary="x + h f + sqrt(h) g xi for dX = f dt + g dB, strong order 1/2, weak order 1",
        source="Maruyama 1955; Kloeden, Platen 1992, 10.2",
    ),
    "hyper_euler": Part(
        "odeframe_plugins.solvers.hypersolver:HyperEuler",
        traits=("step", "partitioned", "trainable"),
        summary="x + h f + h^2 g(t, x, f) with a trained net g, order 1 with a small constant",
        source="Poli et al. 2020, Hypersolvers",
    ),
    "torchode": Part(
        "odeframe_plugins.solvers.torchode:Torchode",
        traits=("adaptive", "per_sample"),
        needs=PER_SAMPLE_NEEDS,
        summary="torchode's dopri5, tsit5 and heun: steps of each sample's own",
        source="Lienen, Guennemann 2022, torchode",
        requires=("torchode",),
    ),
    "torchsde": Part(
        "odeframe_plugins.solvers.torchsde:Torchsde",
        traits=("step", "partitioned", "stochastic", "one_way"),
        needs=("dynamics:stochastic_dynamics",),
        summary="torchsde's schemes for diagonal noise, Ito and Stratonovich: {name: torchsde, method: srk}",
        source="Li et al. 2020, Scalable Gradients for Stochastic Differential Equations",
        requires=("torchsde",),
    ),
    "scipy": Part(
        "odeframe_plugins.solvers.scipy:Scipy",
        traits=("adaptive", "forward_only"),
        summary="scipy's RK45, RK23, DOP853, Radau, BDF and LSODA, forward only",
        source="Virtanen et al. 2020, SciPy 1.0",
        requires=("scipy",),
    ),
    "layer_parallel": Part(
        "odeframe_plugins.solvers.layer_parallel:LayerParallel",
        traits=("step",),
        needs=("gradient=backprop", "dynamics:!batch_norm", "dynamics:!dropout"),
        summary="runs of layers at once, by parareal forward and backward, around any step solver",
        source="Guenther et al. 2020, Layer-Parallel Training of Deep Residual Neural Networks",
    ),
    **geometric.PARTS,
    **residual.PARTS,
}
