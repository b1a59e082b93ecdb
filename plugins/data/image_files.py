"""Image files as gray images in [0, 1], and everything that is none refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from odeframe.errors import DataError

__all__ = ["SUFFIXES", "image_paths", "read_image"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
WHITE = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I": 65535.0, "F": 1.0}


def image_paths(word: str, folder: Path) -> list[Path]:
    """The image files of a folder by their suffixes, sorted by name; files that begin with a dot are left aside.

    Args:
        word: the data's, for messages.
        folder: where they are; folders in it are not looked into.

    Raises:
        DataError: it is no folder, or has no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"data {word!r}, option path: got {str(folder)!r}, no folder; expected one with images")
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if not found:
        there = f"{len(paths)} other files" if paths else "nothing"
        raise DataError(
            f"data {word!r}: the folder {str(folder)!r} has no image in it ({there}); expected files with one of the "
            f"suffixes {', '.join(SUFFIXES)}"
        )
    return found


def read_image(path: Path, gray: bool, word: str) -> np.ndarray:
    """A file as an image ``(height, width)`` in [0, 1], float32.

    Args:
        path: of the file.
        gray: turns colours into gray, by their luminance; else they are refused.
        word: the data's, for messages.

    Raises:
        DataError: the file is no image, is truncated, has colours, or numbers that are not finite or beyond [0, 1].
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            file.load()
            mode, image = file.mode, _gray(file, gray)
    except UnidentifiedImageError as error:
        raise DataError(f"data {word!r}: {path} is no image, whatever its suffix says; remove it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"data {word!r}: {path} cannot be read, it may be truncated: {error}") from error
    if image is None:
        raise DataError(
            f"data {word!r}: {path} has colours ({mode}), and the model is for gray images; write data.gray: true to "
            "turn colours into gray"
        )
    values = np.asarray(image, dtype=np.float32) / WHITE.get(image.mode, 255.0)
    if not np.isfinite(values).all():
        raise DataError(f"data {word!r}: {path} has {int((~np.isfinite(values)).sum())} numbers that are not finite")
    if values.size == 0 or values.min() < 0 or values.max() > 1:
        raise DataError(
            f"data {word!r}: {path} has numbers from {values.min():g} to {values.max():g} as scaled, expected [0, 1]"
        )
    return values


def _gray(file: Any, gray: bool) -> Any:
    """The image in gray; ``None`` where it has colours that are not to be turned into gray."""
    if file.mode in ("L", *WHITE):
        return file.copy()
    if file.mode in ("1", "LA", "La"):
        return file.convert("L")
    return file.convert("RGB").convert("L") if gray else None
