"""scikit-learn's diabetes patients."""

from __future__ import annotations

from sklearn.datasets import load_diabetes
from torch.utils.data import Dataset

from odeframe.data import DataModule
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import split_rows, tensor_sets
from odeframe_plugins.data.standardise import Scaling

__all__ = ["Diabetes"]


class Diabetes(DataModule):
    """442 patients, 10 features, disease progression after a year; split 308 + 45 + 89, seed 0.

    Features ``(10,)`` and the target ``(1,)`` are standardised by the training split, from the raw values
    (scikit-learn's scaled ones have seen the test rows). A target in the file's units, from 25 to 346, is
    ``target_mean + target_scale * value``; both numbers are in the specification.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.

    Source:
        Efron, Hastie, Johnstone, Tibshirani 2004, Least Angle Regression, section 1.
    """

    target_mean = 149.5097
    target_scale = 78.4988

    def __init__(self, batch_size: int = 64, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)

    def specify(self) -> DataSpec:
        """Ten numbers in, one number out."""
        return DataSpec(
            name="diabetes",
            input_shape=(10,),
            target="value",
            target_shape=(1,),
            task="regression",
            target_mean=self.target_mean,
            target_scale=self.target_scale,
        )

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        bunch = load_diabetes(scaled=False)
        parts = split_rows(len(bunch.target), name="diabetes")
        inputs = Scaling.fit(bunch.data[parts["train"]], bunch.feature_names).apply(bunch.data)
        targets = (bunch.target[:, None] - self.target_mean) / self.target_scale
        return tensor_sets(inputs, targets, parts)
