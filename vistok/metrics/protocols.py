"""Evaluation protocols for generated images, by name: preprocessing, network and metrics of published evaluators."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vistok.errors import UserError
from vistok.metrics import resizing
from vistok.metrics.inception_score import ScoreRule
from vistok.pretrained.inception import SIDE


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Evaluation protocol: preprocessing of images, feature network, and the metrics computed from its features.

    Covariances are divided by one less than the number of images in all of them.

    Attributes:
      name: belongs to every number.
      network: 'inception', or 'stand_in' for machines without its weights.
      resize: resizing of 8-bit images, as float32 in [0, 255], to `side`.
      side: side of the network's input in pixels.
      middle: pixel value that becomes 0.
      half_range: the network's input is `(x - middle) / half_range`.
      spatial: includes the distance of spatial features (sFID, Nash et al. 2021).
      score: division of the images for the inception score; None omits the score.
      neighbours: number of neighbours for precision and recall; 0 omits both.
      half_distances: compares distances of precision and recall in float16.
    """

    name: str
    resize: Callable[[Array, int], Array]
    middle: float
    half_range: float
    network: str = 'inception'
    side: int = SIDE
    spatial: bool = False
    score: ScoreRule | None = None
    neighbours: int = 0
    half_distances: bool = False

    @property
    def is_fid(self) -> bool:
        """Flag of protocols whose Fréchet distance may be called FID."""
        return self.network == 'inception'

    def prepare(self, images: UInt8[Array, 'b h w 3']) -> Float[Array, 'b s s 3']:
        """Resizes and scales images of any size to the input of the network."""
        return (self.resize(images.astype(jnp.float32), self.side) - self.middle) / self.half_range


_ALL = (
    # Dhariwal and Nichol 2021, the evaluator that comes with ADM.
    Protocol(
        'adm',
        resizing.tf1_bilinear,
        128.0,
        128.0,
        spatial=True,
        score=ScoreRule(split_size=5000),
        neighbours=3,
        half_distances=True,
    ),
    Protocol('pytorch_fid', resizing.torch_bilinear, 127.5, 127.5),
    # Its defaults: ten parts, shuffled with the seed 2020.
    Protocol('torch_fidelity', resizing.tf1_bilinear, 128.0, 128.0, score=ScoreRule(splits=10, shuffle_seed=2020)),
    Protocol('clean', resizing.pil_bicubic, 128.0, 128.0),  # Parmar, Zhang, Zhu 2022
    Protocol('stand_in', resizing.pil_bicubic, 127.5, 127.5, network='stand_in', side=64, neighbours=3),
)
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}


def find_protocol(name: str) -> Protocol:
    """Returns the protocol of a name; raises UserError for an unknown one."""
    if name not in PROTOCOLS:
        raise UserError(f'protocol {name!r} is none of {", ".join(PROTOCOLS)}')
    return PROTOCOLS[name]
