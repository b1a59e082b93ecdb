"""The table of blocks that residual networks brought."""

from odeframe import Part

PARTS = {
    "coupled_conv": Part(
        "odeframe_plugins.dynamics.coupled:CoupledConv",
        traits=("image", "separable"),
        summary="y' = F(z), z' = G(y) with convolutional blocks F and G: RevNet's block on images",
        source="Gomez et al. 2017, The Reversible Residual Network",
    ),
    "post_conv": Part(
        "odeframe_plugins.dynamics.post_conv:PostConv",
        traits=("image",),
        summary="f(x) = norm(conv(act(norm(conv(x))))) on images, for an activation after the sum",
        source="He et al. 2015, Deep Residual Learning for Image Recognition",
    ),
    "conv_stack": Part(
        "odeframe_plugins.dynamics.conv_stack:ConvStack",
        traits=("image",),
        summary="f(x) = conv(act(... conv(x))) on images without norms: the unit of image restoration",
        source="Zhang, Lu, Liu, Dong 2019, Dynamically Unfolding Recurrent Restorer",
    ),
}
