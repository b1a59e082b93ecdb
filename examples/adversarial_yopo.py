"""A network that keeps more of its answers under attack, by five full passes a batch.

Handwritten digits; an attack moves each pixel by up to half a standard deviation, so that the loss grows: 20 steps of
projected gradient descent. ``yopo`` trains against it through the first layer alone, by the maximum principle: the
costate of one full pass serves three steps of the attack.
"""

import tempfile

import torch

import odeframe
from odeframe.robustness import RobustAccuracy

EPS = 0.5


def main() -> None:
    """Test accuracy on clean and on attacked digits, and full passes a batch, of two ways to train."""
    for name, rule in {"gradient": "gradient", "yopo": {"name": "yopo", "eps": EPS}}.items():
        torch.manual_seed(0)
        run = odeframe.compose(
            {"name": "resnet", "width": 32, "blocks": 2},
            {"name": "digits", "flat": True},
            trainer=rule,
            output=tempfile.mkdtemp(),
        )
        off = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
        trainer = run.fit(max_epochs=5, limit_val_batches=0, callbacks=[RobustAccuracy(EPS)], **off)
        passes = trainer.callback_metrics.get("train_full_passes", 1)
        found = run.test()
        attacked = found[f"test_accuracy_pgd20_{EPS}"]
        print(f"{name:8}: {int(passes):2} passes, clean {found['test_accuracy']:.3f}, attacked {attacked:.3f}")


if __name__ == "__main__":
    main()
