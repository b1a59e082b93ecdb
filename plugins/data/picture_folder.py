"""A folder of one's own images: to train on, degraded; and to be restored, as they are."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from odeframe.errors import DataError
from odeframe_plugins.data.degradation import DegradationName
from odeframe_plugins.data.image_files import image_paths, read_image
from odeframe_plugins.data.restoration import DegradedPictures
from odeframe_plugins.data.splits import split_rows

__all__ = ["PictureFolder"]


class PictureFolder(DegradedPictures):
    """Gray images of a folder; for training, validation and test their crops, degraded, split 70/10/20 by image.

    ``predict`` takes every image whole and as it is, one a batch.  All of them are read once before, so that a file
    that is none is told of before any is restored.  Files with other suffixes than images have are left aside, and
    folders in it are not looked into.

    Args:
        path: of the folder.
        gray: turns colours into gray, by their luminance; else an image with colours is refused.  Transparent images,
            and files of several frames, are refused.
        batch_size, num_workers, n, crop, degradation, levels, seed: as for ``pictures``.

    Raises:
        DataError: the folder is not there or has no image in it, or an image cannot be used; for training fewer than
            three images.
    """

    word: ClassVar[str] = "picture_folder"

    def __init__(
        self,
        path: str,
        gray: bool = False,
        batch_size: int = 16,
        num_workers: int = 0,
        n: int = 6400,
        crop: int = 40,
        degradation: DegradationName = "noise",
        levels: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, n, crop, degradation, levels, seed)
        self.path, self.gray = Path(path).expanduser(), gray
        self._whole: list[Path] = []

    def setup(self, stage: str | None = None) -> None:
        """Reads the sets; to predict, looks at every image and keeps none."""
        if stage != "predict":
            super().setup(stage)
            return
        paths = image_paths(self.word, self.path)
        for path in paths:
            read_image(path, self.gray, self.word)
        self._whole = paths

    def pictures(self, split: str) -> dict[str, np.ndarray]:
        """The images of a set."""
        paths = image_paths(self.word, self.path)
        if len(paths) < 3:
            raise DataError(
                f"data 'picture_folder': {str(self.path)!r} has {len(paths)} image(s), expected at least 3, so that "
                "those of training, validation and test are different ones"
            )
        rows = split_rows(len(paths), name=self.word)[split]
        return {paths[row].name: read_image(paths[row], self.gray, self.word) for row in sorted(rows)}

    @property
    def predict_names(self) -> tuple[str, ...]:
        """The names of the files."""
        return tuple(path.name for path in self._whole)

    def predict_dataloader(self) -> DataLoader:
        """Whole images ``(1, 1, height, width)``, one a batch: they have sizes of their own."""
        return DataLoader(WholeImages(self._whole, self.gray, self.word), batch_size=1, num_workers=self.num_workers)


class WholeImages(Dataset):
    """Image files as they are.

    Args:
        paths: of the files.
        gray: as for the folder.
        word: the data's, for messages.
    """

    def __init__(self, paths: list[Path], gray: bool, word: str) -> None:
        self.paths, self.gray, self.word = paths, gray, word

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        """An image ``(1, height, width)``."""
        return (torch.from_numpy(read_image(self.paths[index], self.gray, self.word))[None],)
