"""Feedback between the layers of one step: the same optimiser, with and without what the layers before it changed.

With gain 0 the rule is gradient descent, to round-off; with gain 1 the later layers see the new activations.
"""

import logging

import torch

import odeframe

logging.disable(logging.INFO)  # what Lightning says of devices
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}


def train(trainer):
    """Training loss and weights after three epochs of gradient descent on two moons."""
    torch.manual_seed(0)
    run = odeframe.compose(
        {"name": "resnet", "width": 8, "blocks": 4},
        data="two_moons",
        trainer=trainer,
        optimizer="SGD",
        learning_rate=0.3,
        schedule="constant",
    )
    done = run.fit(max_epochs=3, accelerator="cpu", limit_val_batches=0, **QUIET)
    weights = torch.cat([p.detach().flatten() for p in run.module.parameters()])
    return float(done.callback_metrics["train_loss_epoch"]), weights


def main():
    """Gradient descent, the rule without gain, and with it."""
    loss, reference = train("gradient")
    print(f"gradient            : loss {loss:.4f}")
    for gain in (0.0, 1.0):
        loss, weights = train({"name": "ddp_feedback", "gain": gain})
        print(
            f"ddp_feedback, gain {gain:g}: loss {loss:.4f}, weights differ by {(weights - reference).abs().max():.1e}"
        )


if __name__ == "__main__":
    main()
