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
}
