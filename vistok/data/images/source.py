"""Interface of image datasets: random access to decoded images with a label and a name."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

Split = Literal['train', 'validation']


class BadImage(Exception):  # noqa: N818 - a property of the image, not of the program
    """Error for a single unusable image; the rest of the dataset stays usable.

    Attributes:
      name: name of the image.
      reason: the reason, as the rest of a sentence that starts with the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f'{name}: {reason}')
        self.name = name
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """Decoded image with label and name.

    Attributes:
      image: RGB, 8 bits, of its own size.
      label: index into the source's `class_names`.
      name: unique within the source, for messages.
    """

    image: UInt8[np.ndarray, 'h w 3']
    label: int
    name: str


@runtime_checkable
class ImageSource(Protocol):
    """Sequence of images, decoded on access; safe to use from several threads.

    Attributes:
      name: name of the dataset, for messages.
      class_names: names of the labels; a dataset without classes has a single one.
    """

    name: str
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Returns the number of images in one epoch."""
        ...

    def __getitem__(self, index: int) -> ImageRecord:
        """Returns the decoded image at an index.

        Raises:
          BadImage: this image cannot be decoded.
        """
        ...
