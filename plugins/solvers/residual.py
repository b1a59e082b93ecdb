"""The table of schemes that residual networks brought."""

from odeframe import Part

PARTS = {
    "momentum": Part(
        "odeframe_plugins.solvers.momentum:Momentum",
        traits=("step", "reversible", "multistep"),
        summary="a velocity that follows the field, order 1, can be undone: momentum residual networks",
        source="Sander et al. 2021, Momentum Residual Neural Networks",
    ),
    "projected_euler": Part(
        "odeframe_plugins.solvers.projected:ProjectedEuler",
        traits=("step", "partitioned"),
        summary="relu(x + h f): Euler's step projected on x >= 0, the post-activation residual block",
        source="He et al. 2015, Deep Residual Learning for Image Recognition",
    ),
    "trained_runge_kutta": Part(
        "odeframe_plugins.solvers.trained_tableau:TrainedRungeKutta",
        traits=("step", "partitioned"),
        summary="explicit Runge-Kutta with trained coefficients, tied or untied stages: RKNet's block",
        source="Zhu, Chang, Fu 2018, Convolutional Neural Networks combined with Runge-Kutta Methods",
        when={"trainable=True": {"traits": ("trainable",)}},
    ),
}
