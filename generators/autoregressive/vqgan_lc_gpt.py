"""GPT of VQGAN-LC: a minGPT whose vocabulary consists of the codewords and, after them, the classes.

Zhu et al., "Scaling the Codebook Size of VQGAN to 100,000 with a Utilization Rate of 99%", 2024.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vistok.collectives import replica_draw
from vistok.errors import UserError
from vistok.generators.autoregressive.conditioned_decoder import ConditionedDecoder, ConditionPrefix, DecoderCache
from vistok.generators.autoregressive.decoder_only import DecoderOnlyGenerator
from vistok.generators.autoregressive.decoding import DecodeStep
from vistok.generators.autoregressive.transformer import NORMAL, Linear
from vistok.generators.generator import Condition, class_labels
from vistok.networks.norms import LayerNorm


class VQGANLCGPTNetwork(ConditionedDecoder):
    """Network of the VQGAN-LC GPT; for its attributes see `VQGANLCGPT`."""

    vocabulary: int

    def setup(self) -> None:
        super().setup()
        self.words = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, embedding_init=NORMAL)
        length = 1 + self.grid[0] * self.grid[1]
        self.positions = self.param('positions', nn.initializers.zeros, (length, self.width))
        self.norm = LayerNorm(epsilon=1e-5, dtype=self.dtype)

    def make_output(self, codebook_size: int) -> Linear:
        """Creates a head over the whole vocabulary; the logits of classes are never sampled from."""
        return Linear(self.vocabulary, dtype=self.dtype, result=jnp.float32)

    def prefix(self, cond: Condition) -> ConditionPrefix:
        """Embeds the class as a word of the vocabulary."""
        return ConditionPrefix(self.words(class_labels(cond) + self.codebook_sizes[0])[:, None])

    def embed(self, ids: Int[Array, 'b n k']) -> Float[Array, 'b n d']:
        """Embeds ids as words of the vocabulary."""
        return self.words(ids[:, :, 0])

    def add_positions(self, x: Float[Array, 'b n d'], first: Int[Array, ''] | int) -> Float[Array, 'b n d']:
        """Adds learned positional embeddings to the inputs."""
        return x + jax.lax.dynamic_slice_in_dim(self.positions, first, x.shape[1]).astype(x.dtype)

    def final_norm(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
        return self.norm(x)

    def next_logits(self, cache: DecoderCache, ids: Int[Array, 'b n k']) -> DecodeStep:
        """Computes the logits of the codewords only."""
        step = super().next_logits(cache, ids)
        return DecodeStep(step.cache, step.logits[..., : self.codebook_sizes[0]])


@dataclasses.dataclass(frozen=True)
class VQGANLCGPT(DecoderOnlyGenerator):
    """GPT of VQGAN-LC: next-token prediction with the class as the first word.

    The likelihood is over the whole vocabulary, as in the published model; only codewords are sampled.

    Attributes:
      condition_dropout: 0, as published, has no null class; above 0 the vocabulary has one word more.
      replaced: share of the input ids that training replaces by random words of the vocabulary.
    """

    condition_dropout: float = 0.0
    dropout: float = 0.0
    replaced: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.spec.codebook_sizes) != 1:
            raise UserError(f'VQGANLCGPT predicts one id per position, the tokenizer has {self.spec.codebook_sizes}')

    @property
    def vocabulary(self) -> int:
        """Number of codewords and classes."""
        return self.spec.codebook_sizes[0] + self.num_classes + (self.condition_dropout > 0)

    @property
    def network(self) -> VQGANLCGPTNetwork:
        """Decoder-only transformer of minGPT blocks."""
        return VQGANLCGPTNetwork(**self._sizes(), style='gpt', prefix_length=1, vocabulary=self.vocabulary)

    def corrupt_inputs(self, ids: Int[Array, 'b n k'], rng: Any, *, train: bool) -> Int[Array, 'b n k']:
        """Replaces some ids by random words in training."""
        if not train or not self.replaced:
            return ids

        def draw(rows: int) -> tuple[Bool[Array, 'b n k'], Int[Array, 'b n k']]:
            for_where, for_what = jax.random.split(rng)
            shape = (rows, *ids.shape[1:])
            where = jax.random.bernoulli(for_where, self.replaced, shape)
            return where, jax.random.randint(for_what, shape, 0, self.vocabulary)

        where, words = replica_draw(draw, len(ids))
        return jnp.where(where, words, ids)
