"""FAR: factorized autoregression over tokens with several sub-codebooks.

Bai et al., "Factorized Visual Tokenization and Generation", 2024.  A Llama runs over the positions; at each position a
small one runs over the ids of the sub-codebooks, after the output of the first.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.generators.autoregressive import kv_cache
from vistok.generators.autoregressive.conditioned_decoder import DecoderCache
from vistok.generators.autoregressive.decoder_only import DecoderOnlyGenerator
from vistok.generators.autoregressive.decoding import DecodeStep
from vistok.generators.autoregressive.llamagen import LlamaGenNetwork
from vistok.generators.autoregressive.transformer import CausalTransformer, DecoderState, Linear, causal_context
from vistok.generators.generator import Condition

SIZES: dict[str, dict[str, int]] = {
    'b': {'layers': 24, 'heads': 16, 'width': 1024, 'head_layers': 3},
    'l': {'layers': 36, 'heads': 20, 'width': 1280, 'head_layers': 4},
}
"""Published sizes, as arguments of `FAR`."""


class FARNetwork(LlamaGenNetwork):
    """Network of FAR; for its attributes see `FAR`."""

    head_layers: int

    def setup(self) -> None:
        super().setup()
        self.merge = Linear(self.width, bias=True, dtype=self.dtype)
        self.head = CausalTransformer(
            self.head_layers, self.heads, self.mlp_width, self.style, self.dropout, self.remat, self.dtype
        )

    def embed(self, ids: Int[Array, 'b n k']) -> Float[Array, 'b n d']:
        """Merges the codeword embeddings of a position by a linear layer."""
        return self.merge(jnp.concatenate([words(ids[..., i]) for i, words in enumerate(self.codewords)], axis=-1))

    def head_inputs(self, ids: Int[Array, 'b n k'], cond: Condition, *, train: bool = False) -> Float[Array, 'b n k d']:
        """Computes the inputs of each head, given the true ids of the sub-codebooks before."""
        context = self.features(ids, cond, train=train)
        known = [words(ids[..., i]) for i, words in enumerate(self.codewords[:-1])]
        x = jnp.stack([context, *known], axis=2)
        b, n, k, d = x.shape
        at = causal_context(0, k, k, self.rotation())
        x = self.head(DecoderState(x.reshape(b * n, k, d)), at, train=train).x
        return self.final_norm(x).reshape(b, n, k, d)

    def init_cache(self, cond: Condition) -> DecoderCache:
        """Creates empty caches of both decoders."""
        cache = super().init_cache(cond)
        num_codebooks, head_width = len(self.codebook_sizes), self.width // self.heads
        rows = len(cache.start)
        inner = kv_cache.empty(self.head_layers, rows, self.heads, num_codebooks, head_width, self.cache_dtype)
        return dataclasses.replace(cache, inner=inner)

    def step(self, cache: DecoderCache, ids: Int[Array, 'b k'], codebook_index: int) -> DecodeStep:
        """Computes the logits of the next id; only codebook index 0 advances the outer decoder."""
        if codebook_index == 0:
            state = self.decode(cache, ids[:, None])
            x, cache = state.x, state.cache
        else:
            x = self.codewords[codebook_index - 1](ids[:, codebook_index - 1 : codebook_index])
        # Later cache positions still contain entries of the position before, which are not visible.
        at = causal_context(codebook_index, 1, len(self.codebook_sizes), self.rotation())
        state = self.head(DecoderState(x, cache.inner), at)
        cache = dataclasses.replace(cache, inner=state.cache)
        return DecodeStep(cache, self.output[codebook_index](self.final_norm(state.x[:, 0])))


@dataclasses.dataclass(frozen=True)
class FAR(DecoderOnlyGenerator):
    """FAR: next-position prediction, where a position has several ids.

    Attributes:
      head_layers: blocks of the second decoder.
      cond_rope: rotary embedding of the class, and of the first position of the second decoder: 'zero', as the
        published weights need it, or 'identity'.
    """

    head_layers: int = 3
    cond_rope: str = 'zero'

    @property
    def network(self) -> FARNetwork:
        """Pair of decoders of FAR."""
        return FARNetwork(
            **self._sizes(),
            style='llama',
            prefix_length=1,
            num_classes=self.num_classes,
            text_width=0,
            cond_rope=self.cond_rope,
            output_vectors=0,
            head_layers=self.head_layers,
        )
