"""Fixed views (zooms, crops, flips) of an image whose tokens are extracted before training.

LlamaGen's recipe (Sun et al. 2024, training code): ADM's centre crop to 1.1 times the size, then the corners and the
centre of that, and their mirrors; a second set comes from 1.05 times the size.  Training draws one view of each image
in every epoch.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from vistok.data.images.augment import centre_crop
from vistok.errors import UserError

Views = Literal['centre', 'five_crop', 'ten_crop']


def cut_views(
    image: UInt8[np.ndarray, 'h w 3'], size: int, views: Views, zooms: Sequence[float] = (1.1,)
) -> UInt8[np.ndarray, 'v {size} {size} 3']:
    """Cuts all views of one image.

    Args:
      image: RGB of any size.
      size: side of the views in pixels.
      views: 'centre', the centre crop that evaluation uses; 'five_crop', four corners and the centre of an enlarged
        centre crop; 'ten_crop', these and their mirrors.
      zooms: ratios of that crop to `size`; each gives one set of views.

    Returns:
      `view_count(views, zooms)` images.

    Raises:
      UserError: a zoom is below 1, or there is none.
    """
    count = view_count(views, zooms)
    if views == 'centre':
        return centre_crop(image, size)[None]
    cut = []
    for zoom in zooms:
        enlarged = centre_crop(image, int(size * zoom))
        last = len(enlarged) - size
        middle = last // 2
        places = ((0, 0), (0, last), (last, 0), (last, last), (middle, middle))
        five = [enlarged[top : top + size, left : left + size] for top, left in places]
        cut += five + ([view[:, ::-1] for view in five] if views == 'ten_crop' else [])
    assert len(cut) == count
    return np.stack(cut)


def view_count(views: Views, zooms: Sequence[float] = (1.1,)) -> int:
    """Counts the views that `cut_views` returns.

    Raises:
      UserError: a zoom is below 1, or there is none.
    """
    per_zoom = {'centre': 1, 'five_crop': 5, 'ten_crop': 10}
    if not zooms or min(zooms) < 1:
        raise UserError(f'a zoom is at least 1, got {tuple(zooms)}')
    return 1 if views == 'centre' else per_zoom[views] * len(zooms)
