"""How a batch improves the control."""

from odeframe import Part

SWEPT = ("solver:step", "solver:!surrogate_gradient", "gradient=backprop", "control:!discrete")
"""What trainers that sweep over step maps and maximise Hamiltonians need."""

PARTS = {
    "gradient": Part(
        "odeframe_plugins.trainers.gradient:GradientTrainer",
        traits=("automatic", "ddp", "sharded"),
        summary="stochastic gradient descent by any torch optimiser",
        source="Robbins, Monro 1951",
    ),
    "flow_matching": Part(
        "odeframe_plugins.trainers.flow_matching:FlowMatching",
        traits=("automatic", "ddp"),
        needs=("task=density", "architecture:one_flow", "control:!time_varying", "control:!piecewise"),
        summary="the field of a density by regression on straight paths, without a solve",
        source="Lipman et al. 2023, Flow Matching for Generative Modeling",
    ),
    "moving_endpoint": Part(
        "odeframe_plugins.trainers.moving_endpoint:MovingEndpoint",
        traits=("ddp",),
        needs=("architecture:stopped",),
        example={"fixed": 2, "policy": 1, "period": 2, "loops": (2, 3)},  # all of its parts within a few batches
        summary="the weights by gradient descent, the end time of each sample by Q-learning, in turn",
        source="Zhang, Lu, Liu, Dong 2019, Dynamically Unfolding Recurrent Restorer, section 3",
    ),
    "discrete_msa": Part(
        "odeframe_plugins.trainers.discrete_msa:DiscreteMSA",
        traits=("ddp",),
        needs=(
            *("control:!time_varying", "control:!constrained", "control:!closed_loop", "dynamics:!control_system"),
            "solver:!implicit",  # with weights of size 1 the equation of a step may have no solution
        ),
        summary="binary and ternary weights by flips along the Hamiltonian's gradient, no real ones underneath",
        source="Li, Hao 2018, An Optimal Control Approach to Deep Learning, section 4",
    ),
    "ddp_feedback": Part(
        "odeframe_plugins.trainers.ddp_feedback:DDPFeedback",
        traits=("ddp",),
        needs=(
            *("solver:step", "solver:!stochastic", "solver:!surrogate_gradient", "solver:!implicit"),
            *("gradient=backprop", "control:!mean_field"),
        ),
        summary="an optimiser's step layer by layer, with feedback from what the layers before it have changed",
        source="Liu, Chen, Theodorou 2021, DDPNOpt: Differential Dynamic Programming Neural Optimizer",
    ),
    "msa": Part(
        "odeframe_plugins.trainers.msa:MSA",
        traits=("ddp",),
        needs=SWEPT,
        example={"box": 0.05},  # a Hamiltonian that is linear in the weights takes each to the box's end
        summary="successive approximations: each layer's weights to the maximum of its Hamiltonian, in a box",
        source="Krylov, Chernous'ko 1962; Li, Chen, Tai, E 2018, section 3",
    ),
    "emsa": Part(
        "odeframe_plugins.trainers.emsa:EMSA",
        traits=("ddp", "refinable"),
        needs=(*SWEPT, "solver:!implicit"),  # the costate's penalty differentiates a step twice
        summary="successive approximations with the augmented Hamiltonian; the loss of a batch never rises",
        source="Li, Chen, Tai, E 2018, Maximum Principle Based Algorithms for Deep Learning, 3.2",
    ),
    "pgd": Part(
        "odeframe_plugins.trainers.adversarial:PGDTrainer",
        traits=("automatic", "ddp"),
        summary="adversarial training on the inputs that projected gradient descent finds",
        source="Madry et al. 2018",
    ),
    "free": Part(
        "odeframe_plugins.trainers.free:FreeTrainer",
        traits=("ddp", "refinable"),
        summary="adversarial training whose backward pass moves input and weights at once, m times a batch",
        source="Shafahi et al. 2019, algorithm 1",
    ),
    "trades": Part(
        "odeframe_plugins.trainers.trades:TradesTrainer",
        traits=("automatic", "ddp"),
        needs=("data:classes", "architecture:!density"),  # whose output is no score of classes
        summary="the loss on clean inputs, and the divergence from attacked ones",
        source="Zhang et al. 2019, Theoretically Principled Trade-off between Robustness and Accuracy",
    ),
    "yopo": Part(
        "odeframe_plugins.trainers.yopo:YopoTrainer",
        traits=("ddp",),
        needs=("solver:step", "solver:!stochastic", "gradient=backprop"),
        summary="adversarial training by the maximum principle: m full passes, the attack through layer one alone",
        source="Zhang, Zhang, Lu, Zhu, Dong 2019, You Only Propagate Once",
    ),
    "trades_yopo": Part(
        "odeframe_plugins.trainers.yopo:TradesYopoTrainer",
        traits=("automatic", "ddp"),
        needs=("data:classes", "architecture:!density", "solver:step"),
        summary="trades with the attack through layer one alone",
        source="Zhang, Zhang, Lu, Zhu, Dong 2019, You Only Propagate Once, section 4",
    ),
}
