"""``qstrategies predict``: any picture through an exported file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from qstrategies.errors import InputError
from qstrategies.onnx_file import load_checked, metadata_of
from qstrategies.runtimes.onnx_runtime import OnnxRuntime


def predict(path: Path, images: Sequence[Path]) -> list[dict[str, Any]]:
    """One entry per image: label, its logit, the runner-up and its distance. A file without labels
    gives numbers.

    Raises ``InputError`` for a broken ONNX file, one that takes no grey pictures, and for what is
    not an image.
    """
    labels = metadata_of(load_checked(path), path).get("labels")
    runtime = OnnxRuntime(path)
    shape = [1, *runtime.session.get_inputs()[0].shape[1:]]
    if (
        len(runtime.dtypes) != 1
        or len(shape) != 4
        or shape[1] != 1
        or not all(isinstance(size, int) for size in shape)
    ):
        raise InputError(
            f"{str(path)!r} does not take one batch of grey pictures [N, 1, height, width]"
        )
    pixels = np.stack([read_image(image, (shape[2], shape[3])) for image in images])
    results = []
    for image, logits in zip(images, runtime.run(pixels), strict=True):
        best, second = (int(index) for index in np.argsort(-logits, kind="stable")[:2])
        name = labels or [str(index) for index in range(len(logits))]
        results.append(
            {
                "image": str(image),
                "label": name[best],
                "logit": float(logits[best]),
                "runner_up": name[second],
                "margin": float(logits[best] - logits[second]),
            }
        )
    return results


def read_image(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Grey pixels [1, height, width]; a picture with a bright border is inverted, as the training
    data is light on dark."""
    try:
        with Image.open(path) as opened:
            pixels = np.asarray(
                opened.convert("L").resize((size[1], size[0]), Image.Resampling.LANCZOS)
            )
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not an image that Pillow reads: {error}") from None
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return (255 - pixels if border.mean() > 127 else pixels)[None]
