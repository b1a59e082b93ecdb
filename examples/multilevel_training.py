"""Multi-level training: two blocks a stage, then four, then eight, each block split in two with half the step.

Against a network that has eight from the start: layer evaluations, and the accuracy on the digits' test set.
"""

import logging
import tempfile
import warnings

import torch

import odeframe
from odeframe.refine import Refine


def fit(blocks, step, callbacks, folder):
    """A run after six epochs."""
    torch.manual_seed(0)
    words = {"name": "resnet", "width": 32, "blocks": blocks, "step": step}
    run = odeframe.compose(architecture=words, data={"name": "digits", "flat": True}, output=folder)
    run.fit(max_epochs=6, callbacks=callbacks, enable_progress_bar=False, logger=False, enable_checkpointing=False)
    return run


def main():
    """Both fits."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        refine = Refine(after=[2, 4])
        grown = fit(2, 1.0, [refine], folder)
        deep = fit(8, 0.25, [], folder)
        whole = 8 * deep.trainer.global_step
        for name, run, count in (("grown 2, 4, 8", grown, refine.evaluations), ("8 from the start", deep, whole)):
            accuracy = run.test(enable_progress_bar=False, logger=False)["test_accuracy"]
            pieces = run.module.network.flows[0].control.pieces
            print(f"{name:16}: {pieces} blocks, {count:5} layer evaluations ({count / whole:.0%}), {accuracy:.3f}")


if __name__ == "__main__":
    main()
