"""Images of a source on which priors and nested codebooks are fitted."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from vistok.compression.pixel_formats import ImageArray
from vistok.experiments.model_inputs import Images, open_images


@dataclasses.dataclass
class CalibrationImages:
    """Different images of a source, evenly spread over it and read one at a time.

    Attributes:
      source: images, or their source as for training.
      most: number of images at most.
      crop: side of the central square that is cut out of each image, in pixels; smaller images are used whole, as all
        are if this is 0.  Networks are compiled for each size of images.
      read: number of images that the last iteration has read.
    """

    source: Images
    most: int
    crop: int = 0
    read: int = dataclasses.field(default=0, init=False)

    def __iter__(self) -> Iterator[ImageArray]:
        opened, seen = open_images(self.source, 'train'), set[str]()
        self.read = 0
        places = np.unique(np.linspace(0, len(opened) - 1, self.most).astype(int))
        for index in tqdm(places, desc='counting', disable=None):
            record = opened[int(index)]
            if record.name in seen:  # a source may give one image many times
                continue
            seen.add(record.name)
            self.read += 1
            yield crop_center(record.image, self.crop) if self.crop else record.image


def crop_center(image: UInt8[np.ndarray, 'h w 3'], side: int) -> UInt8[np.ndarray, 'H W 3']:
    """Cuts the central square out of an image without resizing; keeps sides that are shorter."""
    top, left = (max(length - side, 0) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]
