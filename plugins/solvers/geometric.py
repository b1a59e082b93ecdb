"""The table of multistep, symplectic and reversible schemes."""

from odeframe import Part

PARTS = {
    "ab2": Part(
        "odeframe_plugins.solvers.multistep:AB2",
        traits=("step", "multistep"),
        summary="Adams-Bashforth, order 2, one evaluation a step",
        source="Hairer, Norsett, Wanner 1993, III.1, III.5",
    ),
    "ab3": Part(
        "odeframe_plugins.solvers.multistep:AB3",
        traits=("step", "multistep"),
        summary="Adams-Bashforth, order 3, one evaluation a step",
        source="Hairer, Norsett, Wanner 1993, III.1, III.5",
    ),
    "ab4": Part(
        "odeframe_plugins.solvers.multistep:AB4",
        traits=("step", "multistep"),
        summary="Adams-Bashforth, order 4, one evaluation a step",
        source="Hairer, Norsett, Wanner 1993, III.1, III.5",
    ),
    "lm": Part(
        "odeframe_plugins.solvers.multistep:LM",
        traits=("step", "multistep", "trainable"),
        summary="LM-ResNet: a two-step method with a trainable coefficient, order 1",
        source="Lu et al. 2018, Beyond Finite Layer Neural Networks, section 3",
    ),
    "symplectic_euler": Part(
        "odeframe_plugins.solvers.symplectic:SymplecticEuler",
        traits=("step", "reversible", "partitioned", "symplectic"),
        needs=("dynamics:separable",),
        summary="one half of the state, then the other, order 1: RevNet's coupling",
        source="Hairer, Lubich, Wanner 2006, I.1; Gomez et al. 2017",
    ),
    "verlet": Part(
        "odeframe_plugins.solvers.symplectic:Verlet",
        traits=("step", "reversible", "partitioned", "symplectic"),
        needs=("dynamics:separable",),
        summary="Stoermer-Verlet, order 2",
        source="Hairer, Lubich, Wanner 2003",
    ),
    "yoshida4": Part(
        "odeframe_plugins.solvers.symplectic:Yoshida4",
        traits=("step", "reversible", "partitioned", "symplectic"),
        needs=("dynamics:separable",),
        summary="three Stoermer-Verlet steps, order 4",
        source="Yoshida 1990",
    ),
    "leapfrog": Part(
        "odeframe_plugins.solvers.leapfrog:Leapfrog",
        traits=("step", "reversible", "second_order"),
        needs=("dynamics:second_order",),
        summary="x'' = f(t, x) from rest, order 2: hyperbolic networks",
        source="Haber, Ruthotto 2017, section 3",
    ),
    "reversible_midpoint": Part(
        "odeframe_plugins.solvers.reversible:ReversibleMidpoint",
        traits=("step", "reversible", "multistep"),
        summary="the two-step midpoint rule in a form that can be undone, order 2, for neutral fields",
        source="Chang et al. 2018",
    ),
    "alf": Part(
        "odeframe_plugins.solvers.reversible:AsynchronousLeapfrog",
        traits=("step", "reversible"),
        summary="asynchronous leapfrog of MALI, order 2, for neutral fields",
        source="Zhuang et al. 2021",
    ),
    "reversible_heun": Part(
        "odeframe_plugins.solvers.reversible:ReversibleHeun",
        traits=("step", "reversible"),
        summary="Heun's method with a shadow state, order 2, for neutral fields",
        source="Kidger et al. 2021, algorithm 1",
    ),
}
