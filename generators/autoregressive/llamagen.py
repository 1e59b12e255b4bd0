"""LlamaGen: a Llama that predicts the next token in raster order, from a class or from text.

Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", 2024.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.errors import UserError
from vistok.generators.autoregressive.codeword_clusters import SharedOutputVectors
from vistok.generators.autoregressive.conditioned_decoder import ConditionedDecoder, ConditionPrefix
from vistok.generators.autoregressive.decoder_only import DecoderOnlyGenerator, head_kernel
from vistok.generators.autoregressive.rotary import rotary_table
from vistok.generators.autoregressive.transformer import NORMAL, Linear
from vistok.generators.autoregressive.vq_logits import OutputVectors, vector_cross_entropy
from vistok.generators.cross_entropy import CrossEntropy
from vistok.generators.generator import Condition, TextFeatures, Variables, class_labels, text_features

SIZES: dict[str, dict[str, int]] = {
    'b': {'layers': 12, 'heads': 12, 'width': 768},
    'l': {'layers': 24, 'heads': 16, 'width': 1024},
    'xl': {'layers': 36, 'heads': 20, 'width': 1280},
    'xxl': {'layers': 48, 'heads': 24, 'width': 1536},
    '3b': {'layers': 24, 'heads': 32, 'width': 3200},
}
"""Published sizes, as arguments of `LlamaGen`."""


class CaptionPrefix(nn.Module):
    """Projection of caption features to the width of the decoder.

    Attributes:
      width: channels of the decoder.
      dtype: computation type.
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, features: Float[Array, 'b n c']) -> Float[Array, 'b n d']:
        """Projects by a two-layer MLP."""
        hidden = nn.gelu(Linear(self.width, dtype=self.dtype, name='mlp_in')(features), approximate=True)
        return Linear(self.width, dtype=self.dtype, name='mlp_out')(hidden)


class LlamaGenNetwork(ConditionedDecoder):
    """Network of LlamaGen; for its attributes see `LlamaGen`."""

    num_classes: int
    text_width: int
    cond_rope: str
    output_vectors: int

    def setup(self) -> None:
        super().setup()
        self.codewords = [
            nn.Embed(size, self.width, dtype=self.dtype, embedding_init=NORMAL) for size in self.codebook_sizes
        ]
        self.norm = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype)
        if self.text_width:
            self.caption = CaptionPrefix(self.width, self.dtype)
            self.no_caption = self.variable('frozen', 'no_caption', self._noise)
        else:
            self.label = nn.Embed(self.num_classes + 1, self.width, dtype=self.dtype, embedding_init=NORMAL)

    def make_output(self, codebook_size: int) -> nn.Module:
        """Creates a head with one vector for each id, or with shared vectors."""
        if not self.output_vectors:
            return super().make_output(codebook_size)
        return OutputVectors(codebook_size, self.output_vectors, self.dtype)

    def _noise(self) -> jax.Array:
        shape = (self.prefix_length, self.text_width)
        return jax.random.normal(self.make_rng('params'), shape) * self.text_width**-0.5

    def null_caption(self) -> Float[Array, 'p c']:
        """Returns fixed noise as null caption, as in the published model."""
        return self.no_caption.value

    def prefix(self, cond: Condition) -> ConditionPrefix:
        """Embeds a class as one vector, a caption as one vector per text token."""
        if not self.text_width:
            return ConditionPrefix(self.label(class_labels(cond))[:, None])
        captions = text_features(cond)
        if captions.features.shape[1:] != (self.prefix_length, self.text_width):
            raise UserError(
                f'captions have {self.prefix_length} vectors of {self.text_width} numbers here, '
                f'got {captions.features.shape[1:]}'
            )
        return ConditionPrefix(self.caption(captions.features.astype(self.dtype)), captions.mask)

    def embed(self, ids: Int[Array, 'b n k']) -> Float[Array, 'b n d']:
        """Looks up codeword embeddings of the ids."""
        return self.codewords[0](ids[:, :, 0])

    def final_norm(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
        return self.norm(x)

    def rotation(self) -> Any:
        """Returns the rotary table of the condition and then of the cells."""
        return rotary_table(self.grid, self.width // self.heads, self.prefix_length, self.cond_rope)


@dataclasses.dataclass(frozen=True)
class LlamaGen(DecoderOnlyGenerator):
    """LlamaGen: next-token prediction, class-conditional or text-conditional.

    Attributes:
      text_tokens: vectors of a caption; 0: class-conditional.
      text_width: width of these vectors.
      cond_rope: rotary embedding of the condition: 'zero', as the published weights need it, or 'identity'.
      output_vectors: number of shared output vectors for large vocabularies, see `OutputVectors`; 0: one for each id,
        as published.
    """

    initializers = (SharedOutputVectors('frozen/output_0/vector_of'),)

    text_tokens: int = 0
    text_width: int = 2048
    cond_rope: str = 'zero'
    output_vectors: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.spec.codebook_sizes) != 1:
            raise UserError(f'LlamaGen predicts one id per position, the tokenizer has {self.spec.codebook_sizes}')
        if not 0 <= self.output_vectors <= self.spec.codebook_sizes[0]:
            raise UserError(f'{self.spec.codebook_sizes[0]} ids cannot have {self.output_vectors} output vectors')

    @property
    def network(self) -> LlamaGenNetwork:
        """Decoder-only transformer of LlamaGen."""
        return LlamaGenNetwork(**self._sizes())

    @property
    def empty_condition(self) -> Condition:
        """Condition of one row, for shapes."""
        if self.text_tokens:
            shape = (1, self.text_tokens)
            return TextFeatures(jnp.zeros((*shape, self.text_width)), jnp.ones(shape, bool))
        return super().empty_condition

    def head_cross_entropy(
        self, variables: Variables, codebook_index: int, hidden: Float[Array, 'b n d'], targets: Int[Array, 'b n']
    ) -> CrossEntropy:
        if not self.output_vectors:
            return super().head_cross_entropy(variables, codebook_index, hidden, targets)
        head = f'output_{codebook_index}'
        vector_of = variables['frozen'][head]['vector_of']
        kernel, bias = head_kernel(variables, head, 'head'), variables['params'][head]['bias']
        return vector_cross_entropy(hidden, kernel, bias, vector_of, targets)

    def _sizes(self) -> dict[str, Any]:
        return super()._sizes() | {
            'style': 'llama',
            'prefix_length': self.text_tokens or 1,
            'num_classes': self.num_classes,
            'text_width': self.text_width if self.text_tokens else 0,
            'cond_rope': self.cond_rope,
            'output_vectors': self.output_vectors,
        }
