"""Networks of ADDP: an encoder of pixels, and a decoder that predicts tokens."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.generators.masked.bidirectional import XAVIER, Bidirectional, CodewordHead, table_init
from vistok.generators.masked.masking import MaskedGrid
from vistok.networks.dropout import Dropout
from vistok.networks.norms import LayerNorm

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet's pixels in [0, 1]
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def _patch_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Initializes a patch convolution like the dense layer that it equals."""
    return XAVIER(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


class PixelEncoder(nn.Module):
    """Vision transformer: one feature of the whole image, then one of each patch.

    Attributes:
      cells: patches of an image, n.
      patch: side of a patch in pixels.
      width: channels of the features.
      layers: number of blocks.
      heads: attention heads.
      dropout: dropout rate.
      remat: whether the backward pass recomputes the blocks.
      dtype: computation type.
    """

    cells: int
    patch: int
    width: int
    layers: int
    heads: int
    dropout: float = 0.1
    remat: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        sides = (self.patch, self.patch)
        self.patches = nn.Conv(self.width, sides, sides, 'VALID', dtype=self.dtype, kernel_init=_patch_init)
        self.embedding_norm = LayerNorm(epsilon=1e-6, dtype=self.dtype)
        self.drop = Dropout(self.dropout)
        self.blocks = Bidirectional(self.layers, self.heads, self.dropout, self.remat, self.dtype)
        self.image = self.param('image', table_init(self.width), (self.width,))
        self.positions = self.param('positions', table_init(self.width), (self.cells + 1, self.width))

    def embed(self, images: Float[Array, 'b H W 3'], *, train: bool = False) -> Float[Array, 'b m d']:
        """Embeds patches as inputs of the first block."""
        pixels = (jnp.clip((images + 1) / 2, 0, 1) - _MEAN) / _DEVIATION
        x = self.patches(pixels).reshape(len(images), -1, self.width)
        whole = jnp.broadcast_to(self.image.astype(self.dtype), (len(x), 1, self.width))
        x = jnp.concatenate([whole, x], axis=1) + self.positions.astype(self.dtype)
        return self.drop(self.embedding_norm(x), deterministic=not train)

    def __call__(
        self, images: Float[Array, 'b H W 3'], *, train: bool = False, drop_path: float = 0.0
    ) -> Float[Array, 'b m d']:
        """Computes features of `images` in [-1, 1] (values outside are clipped); `drop_path` as in `Bidirectional`."""
        return self.blocks(self.embed(images, train=train), train=train, drop_path=drop_path)


class ADDPNetwork(nn.Module):
    """Predictor of masked tokens from an image and the reliable (unmasked) tokens.

    The inputs of the decoder are, at every cell, the encoder's feature if the token there is reliable, else a mask
    vector, and after these the embeddings of the reliable tokens.  So the image counts only where tokens are reliable.

    Attributes:
      codebook_size: number of codewords, K.
      label_rows: number of labels in the vocabulary, which follow the codewords; one more row follows them.
      cells: tokens of a grid, n.
      patch: side of a cell in pixels.
      width: channels of encoder and decoder.
      encoder_layers: blocks of the encoder.
      encoder_heads: attention heads of the encoder.
      decoder_layers: blocks of the decoder.
      decoder_heads: attention heads of the decoder.
      dropout: dropout rate.
      detached: whether gradients of the logits stop at the token table, see `CodewordHead`.
      remat: whether the backward pass recomputes the blocks.
      dtype: computation type.
    """

    codebook_size: int
    label_rows: int
    cells: int
    patch: int
    width: int
    encoder_layers: int
    encoder_heads: int
    decoder_layers: int
    decoder_heads: int
    dropout: float = 0.1
    detached: bool = True
    remat: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        stack = {'dropout': self.dropout, 'remat': self.remat, 'dtype': self.dtype}
        self.encoder = PixelEncoder(
            self.cells, self.patch, self.width, self.encoder_layers, self.encoder_heads, **stack
        )
        self.between = nn.Dense(self.width, dtype=self.dtype, kernel_init=XAVIER)
        self.decoder = Bidirectional(self.decoder_layers, self.decoder_heads, **stack)
        self.head = CodewordHead(self.detached, self.dtype)
        rows_init = table_init(self.width)
        self.tokens = self.param('tokens', rows_init, (self.codebook_size + self.label_rows + 1, self.width))
        self.mask = self.param('mask', rows_init, (self.width,))
        # Row 0 belongs to the whole image (in token_positions it is unused).
        shape = (self.cells + 1, self.width)
        self.known_positions = self.param('known_positions', rows_init, shape)
        self.hidden_positions = self.param('hidden_positions', rows_init, shape)
        self.token_positions = self.param('token_positions', rows_init, shape)

    def __call__(
        self,
        images: Float[Array, 'b H W 3'],
        guess: MaskedGrid,
        labels: Int[Array, ' b'],
        *,
        train: bool = False,
    ) -> Float[Array, 'b n v']:
        """Computes logits over the whole vocabulary at every cell.

        Args:
          images: images in [-1, 1].
          guess: ids, and the mask of those that are not reliable.
          labels: labels in [0, label_rows); others mean none.
          train: whether dropout is on.
        """
        return self.predict(self.encoder(images, train=train), guess, labels, train=train)

    def predict(
        self,
        features: Float[Array, 'b m d'],
        guess: MaskedGrid,
        labels: Int[Array, ' b'],
        *,
        train: bool = False,
    ) -> Float[Array, 'b n v']:
        """Runs the decoder: computes logits from the encoder's features."""
        hidden = guess.hidden[..., None]
        unlabelled = (labels < 0) | (labels >= self.label_rows)
        label_row = self.codebook_size + jnp.where(unlabelled, 0, labels)
        whole = jnp.where(unlabelled[:, None], self.mask, self.tokens[label_row]) + self.known_positions[0]
        cells = jnp.where(hidden, self.mask, self.between(features)[:, 1:])
        cells = cells + jnp.where(hidden, self.hidden_positions[1:], self.known_positions[1:])
        known = self.tokens[guess.ids] + self.token_positions[1:]
        x = jnp.concatenate([whole[:, None], cells, known], axis=1).astype(self.dtype)
        visible = jnp.concatenate([jnp.ones((len(x), 1 + self.cells), bool), ~guess.hidden], axis=1)
        x = self.decoder(x, visible, train=train)
        return self.head(x[:, 1 : 1 + self.cells], self.tokens)
