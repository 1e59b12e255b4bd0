"""DINOv2 vision transformer (Oquab et al. 2023), as a frozen teacher."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vistok.networks.norms import LayerNorm
from vistok.networks.transformer import TransformerBlock
from vistok.pretrained.image_input import interpolate_positions, normalize, resize

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class DINOv2(nn.Module):
    """DINOv2 image encoder: the class token after the final layer norm, or all patch tokens on their grid.

    The published models learned their positions at 518 pixels (37 x 37 patches); for other sizes the table is
    interpolated at each call, bicubically without antialiasing as their published implementation does.

    Attributes:
      width: width of the tokens.
      layers: transformer blocks.
      num_heads: attention heads.
      patch: side of a patch in pixels.
      image_size: side the images are resized to; a multiple of `patch`.
      position_grid: side of the grid the position table was learned on.
      resize_method: 'bicubic' (antialiased), or 'nearest' as FQGAN's official code.
      patches: returns the patch tokens instead of the class token.
      dtype: computation type.
    """

    width: int
    layers: int
    num_heads: int
    patch: int = 14
    image_size: int = 224
    position_grid: int = 37
    resize_method: str = 'bicubic'
    patches: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, 'b h w 3']) -> Float[Array, 'b *grid width']:
        """Computes float32 features of images in [-1, 1] of any size: one vector per image, or a grid of patch
        features.
        """
        x = normalize(resize(images, self.image_size, self.resize_method), _MEAN, _STD)
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            (self.patch, self.patch),
            padding='VALID',
            dtype=self.dtype,
            name='patch_embedding',
        )(x)
        b = images.shape[0]
        x = x.reshape(b, -1, self.width)
        init = nn.initializers.normal(0.02)
        class_token = self.param('class_token', init, (self.width,))
        positions = self.param('positions', init, (1 + self.position_grid**2, self.width))
        class_position, grid = positions[:1], interpolate_positions(positions[1:], self.image_size // self.patch)
        first = jnp.broadcast_to(class_token + class_position, (b, 1, self.width))
        x = jnp.concatenate([first.astype(x.dtype), x + grid.astype(x.dtype)], axis=1)
        for i in range(self.layers):
            x = TransformerBlock(self.num_heads, epsilon=1e-6, layer_scale=True, dtype=self.dtype, name=f'block_{i}')(x)
        wanted = x[:, 1:] if self.patches else x[:, 0]
        wanted = LayerNorm(epsilon=1e-6, dtype=self.dtype, name='norm_out')(wanted).astype(jnp.float32)
        side = self.image_size // self.patch
        return wanted.reshape(b, side, side, self.width) if self.patches else wanted


def dinov2_s14(**options: Any) -> DINOv2:
    """Builds DINOv2 ViT-S/14: features of width 384."""
    return DINOv2(width=384, layers=12, num_heads=6, **options)
