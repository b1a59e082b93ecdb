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
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in paths if not path.is_dir()]
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(
            f"data {word!r}: the folder {str(folder)!r} has no image in it ({len(files)} other files, and "
            f"{len(paths) - len(files)} folders, which are not looked into); expected files with one of the suffixes "
            f"{', '.join(SUFFIXES)}"
        )
    return found


def read_image(path: Path, gray: bool, word: str) -> np.ndarray:
    """A file as an image ``(height, width)`` in [0, 1], float32, turned as its EXIF entry says.

    Args:
        path: of the file.
        gray: turns colours into gray, by their luminance; else they are refused.  Colours that are all gray are gray.
        word: the data's, for messages.

    Raises:
        DataError: the file is no image, is truncated, has colours, is transparent somewhere, has several frames, or
            numbers that are not finite or beyond [0, 1].
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            file.load()
            frames, clear = _frames(file), _transparent(file)
            mode, image = file.mode, _gray(ImageOps.exif_transpose(file), gray)
    except UnidentifiedImageError as error:
        raise DataError(f"data {word!r}: {path} is no image, whatever its suffix says; remove it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"data {word!r}: {path} cannot be read, it may be truncated: {error}") from error
    if frames > 1:
        raise DataError(f"data {word!r}: {path} has {frames} frames; save those that you mean as files of their own")
    if clear:
        raise DataError(
            f"data {word!r}: {path} is transparent in places, and a restored image is not; lay it on a background first"
        )
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


def _frames(file: Any) -> int:
    """Frames of an animation, or pages; those behind the first of a camera's MPO are previews of it."""
    return 1 if file.format == "MPO" else getattr(file, "n_frames", 1)


def _transparent(file: Any) -> bool:
    """Whether a pixel is not opaque."""
    return file.has_transparency_data and file.convert("RGBA").getextrema()[3][0] < 255


def _gray(file: Any, gray: bool) -> Any:
    """The image in gray; ``None`` where it has colours that are not to be turned into gray."""
    if file.mode in ("L", *WHITE):
        return file.copy()
    if file.mode in ("1", "LA", "La"):
        return file.convert("L")
    colours = file.convert("RGB")
    red, green, blue = colours.split()
    return colours.convert("L") if gray or red.tobytes() == green.tobytes() == blue.tobytes() else None
