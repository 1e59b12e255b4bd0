"""CLIP vision tower (Radford et al. 2021, section 2.4), as a frozen teacher or a source of patch features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.networks.norms import LayerNorm
from vistok.networks.transformer import TransformerBlock
from vistok.pretrained.image_input import normalize, resize

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class CLIPVision(nn.Module):
    """CLIP image encoder up to the class token of the last layer, before the final layer norm and the projection.

    That is the feature FQGAN's semantic factor predicts.  With `patch_width` all patch tokens instead, after both, on
    their grid: the features that VQGAN-LC's codebook is made of.

    Attributes:
      width: width of the tokens.
      layers: transformer blocks.
      num_heads: attention heads.
      patch: side of a patch in pixels.
      image_size: side the images are resized to; a multiple of `patch`.
      activation: 'quick_gelu' for OpenAI's weights.
      resize_method: 'bicubic' (antialiased), or 'nearest' as FQGAN's official code.
      patch_width: width that patch tokens are projected to; None: the class token, not projected.
      dtype: computation type.
    """

    width: int
    layers: int
    num_heads: int
    patch: int
    image_size: int = 224
    activation: str = 'quick_gelu'
    resize_method: str = 'bicubic'
    patch_width: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w 3']) -> Float[Array, 'b *grid d']:
        """Computes float32 features of images in [-1, 1] of any size: one vector per image, or a grid of patch
        features.
        """
        x = normalize(resize(images, self.image_size, self.resize_method), _MEAN, _STD)
        patches = nn.Conv(
            self.width,
            (self.patch, self.patch),
            (self.patch, self.patch),
            padding='VALID',
            use_bias=False,
            dtype=self.dtype,
            name='patch_embedding',
        )(x)
        b = images.shape[0]
        patches = patches.reshape(b, -1, self.width)
        init = nn.initializers.normal(0.02)
        class_token = self.param('class_token', init, (self.width,)).astype(patches.dtype)
        positions = self.param('positions', init, (patches.shape[1] + 1, self.width)).astype(patches.dtype)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (b, 1, self.width)), patches], axis=1) + positions
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name='norm_in')(x)
        for i in range(self.layers):
            x = TransformerBlock(
                self.num_heads, activation=self.activation, epsilon=1e-5, dtype=self.dtype, name=f'block_{i}'
            )(x)
        if self.patch_width is None:
            return x[:, 0].astype(jnp.float32)
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name='norm_out')(x[:, 1:])
        x = nn.Dense(self.patch_width, use_bias=False, dtype=self.dtype, name='projection')(x)
        side = self.image_size // self.patch
        return x.reshape(b, side, side, self.patch_width).astype(jnp.float32)


def clip_l14(*, patches: bool = False, **options: Any) -> CLIPVision:
    """Builds CLIP ViT-L/14: features of width 1024, patch features of width 768."""
    patch_width = 768 if patches else None
    return CLIPVision(width=1024, layers=24, num_heads=16, patch=14, patch_width=patch_width, **options)


def clip_b16(*, patches: bool = False, **options: Any) -> CLIPVision:
    """Builds CLIP ViT-B/16: features of width 768, patch features of width 512."""
    patch_width = 512 if patches else None
    return CLIPVision(width=768, layers=12, num_heads=12, patch=16, patch_width=patch_width, **options)
