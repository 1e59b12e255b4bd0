"""Small real image files for tests that need something to read."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def colour_image(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth image that differs for every seed: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray | Image.Image, kind: str = 'PNG', **options) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def two_classes(root: Path, count: int = 30) -> Path:
    """`count` PNG images in the class folders 'cat' and 'dog'."""
    files = {f'{("cat", "dog")[i % 2]}/{i:03}.png': encode(colour_image(i)) for i in range(count)}
    return write(root, files)
