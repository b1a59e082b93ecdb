"""The table of networks that were later found to be schemes, and of some that were made from one."""

from odeframe import Part

PARTS = {
    "polynet": Part(
        "odeframe_plugins.architectures.polynet:PolyNet",
        summary="polynomials of blocks: poly-2, mpoly-2, 2-way, and of third order",
        source="Zhang et al. 2017, PolyNet: A Pursuit of Structural Diversity in Very Deep Networks",
        facts={
            "scheme": "truncated backward Euler",
            "order": "1 for blocks with f(0) = 0, none for others",
            "property": "of a linear block (I - h f)^{-1} up to O(h^3), O(h^4) at third order",
        },
    ),
    "fractalnet": Part(
        "odeframe_plugins.architectures.fractalnet:FractalNet",
        summary="columns of 1, 2, 4, ... blocks with joins and drop-path; any column can be taken out",
        source="Larsson, Maire, Shakhnarovich 2017, FractalNet: Ultra-Deep Neural Networks without Residuals",
        facts={
            "scheme": "the mean of Euler's method at several steps, a form of Runge-Kutta method",
            "order": "1 with equal blocks; 2 with those of Heun's weights",
            "property": "each column is a network by itself, trained along by drop-path",
        },
    ),
    "revnet": Part(
        "odeframe_plugins.architectures.revnet:RevNet",
        summary="additive coupling of two halves, undone on the way back",
        source="Gomez et al. 2017, The Reversible Residual Network",
        facts={
            "scheme": "symplectic Euler",
            "order": "1",
            "property": "every step can be undone, so that memory need not grow with depth; not stable by that alone",
        },
    ),
    "lm_resnet": Part(
        "odeframe_plugins.architectures.lm_resnet:LMResNet",
        summary="ResNet with a trained two-step method",
        source="Lu et al. 2018, Beyond Finite Layer Neural Networks",
        facts={
            "scheme": "linear two-step method, trained coefficient k",
            "order": "1; 2 in the limit k = 1",
            "property": "zero-stable whatever is trained, |k| < 1",
        },
    ),
    "rknet": Part(
        "odeframe_plugins.architectures.rknet:RKNet",
        summary="Runge-Kutta steps as blocks, with trained or textbook coefficients",
        source="Zhu, Chang, Fu 2018, Convolutional Neural Networks combined with Runge-Kutta Methods",
        facts={
            "scheme": "explicit Runge-Kutta of 2, 3 or 4 stages",
            "order": "that of the tableau; at least 1 once trained; none with untied stages",
            "property": "the weights of the stages add up to 1, trained or not",
        },
    ),
    "stochastic_depth": Part(
        "odeframe_plugins.architectures.stochastic_depth:StochasticDepth",
        summary="blocks that are dropped at random in training, more of them with depth",
        source="Huang et al. 2016, Deep Networks with Stochastic Depth",
        facts={
            "scheme": "Euler's step behind a coin of probability p",
            "order": "1 for x' = p f in the mean; weak order 1/2 to 1 with scaling sde",
            "property": "a step has mean x + p h f and variance p (1 - p) h^2 f^2",
        },
    ),
    "shake_shake": Part(
        "odeframe_plugins.architectures.stochastic_depth:ShakeShake",
        summary="branches mixed at random in training",
        source="Gastaldi 2017, Shake-Shake regularization",
        facts={
            "scheme": "Euler's step for a random mixture of branches",
            "order": "1 for x' = mean f_i in the mean",
            "property": "of two branches a step has variance h^2 (f_1 - f_2)^2 / 12",
        },
    ),
    "momentum": Part(
        "odeframe_plugins.architectures.momentum:MomentumNet",
        summary="a velocity that follows the blocks (an extension: later than 2019)",
        source="Sander et al. 2021, Momentum Residual Neural Networks",
        facts={
            "scheme": "Euler's step along a running mean of f",
            "order": "1",
            "property": "every step can be undone, for any block; round-off grows like gamma^-N",
        },
    ),
    "projected_resnet": Part(
        "odeframe_plugins.architectures.projected_resnet:ProjectedResNet",
        summary="post-activation ResNet: the activation stands after the sum",
        source="He et al. 2015, Deep Residual Learning for Image Recognition",
        facts={
            "scheme": "Euler's step and the projection on x >= 0; not Euler's method for f",
            "order": "none for x' = f",
            "property": "states stay non-negative",
        },
    ),
}
