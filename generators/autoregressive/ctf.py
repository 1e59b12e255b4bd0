"""CTF: autoregression over clusters of codewords, then parallel prediction of the codewords within their clusters.

Guo et al., "Improving Autoregressive Image Generation through Coarse-to-Fine Token Prediction", 2025.  Choices that the
paper leaves open: the second network attends in both directions, is conditioned on the class, and chooses among the
members of the cluster only.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vistok.errors import UserError
from vistok.generators.autoregressive.codeword_clusters import CodewordClusters
from vistok.generators.autoregressive.llamagen import LlamaGen
from vistok.generators.autoregressive.rotary import rotary_table
from vistok.generators.autoregressive.transformer import (
    NORMAL,
    AttentionContext,
    CausalTransformer,
    DecoderState,
    Linear,
)
from vistok.generators.cross_entropy import cross_entropy
from vistok.generators.generator import (
    Condition,
    Generator,
    GeneratorLoss,
    SampleConfig,
    Variables,
    class_labels,
    draw_dropped,
    require_null_condition,
)
from vistok.generators.sampling import draw, fold_in_rows, guidance_scales, guide, row_keys
from vistok.networks.dropout import Dropout
from vistok.tokenizers.tokenizer import Tokens, TokenSpec


class FineNetwork(nn.Module):
    """Second network of CTF: LlamaGen's blocks, without the causal mask.

    Attributes:
      codebook_size: number of ids that are predicted.
      clusters: number of clusters that are the inputs.
      grid: rows and columns.
      num_classes: label `num_classes` means no condition.
      layers, heads, width, dropout, remat, dtype: of the blocks.
    """

    codebook_size: int
    clusters: int
    grid: tuple[int, int]
    num_classes: int
    layers: int
    heads: int
    width: int
    dropout: float
    remat: bool
    dtype: Any

    def setup(self) -> None:
        self.coarse = nn.Embed(self.clusters, self.width, dtype=self.dtype, embedding_init=NORMAL)
        self.label = nn.Embed(self.num_classes + 1, self.width, dtype=self.dtype, embedding_init=NORMAL)
        self.drop = Dropout(self.dropout)
        self.decoder = CausalTransformer(self.layers, self.heads, None, 'llama', self.dropout, self.remat, self.dtype)
        self.norm = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype)
        self.output = Linear(
            self.codebook_size, dtype=self.dtype, result=jnp.float32, kernel_init=nn.initializers.zeros
        )

    def head_inputs(
        self, coarse: Int[Array, 'b n'], labels: Int[Array, ' b'], *, train: bool = False
    ) -> Float[Array, 'b n d']:
        """Computes the inputs of the head at each position, given the clusters of all positions."""
        x = jnp.concatenate([self.label(labels)[:, None], self.coarse(coarse)], axis=1)
        x = self.drop(x, deterministic=not train)
        n = x.shape[1]
        rotation = jnp.asarray(rotary_table(self.grid, self.width // self.heads, 1, 'identity'))
        at = AttentionContext(0, jnp.ones((1, n, n), bool), rotation)
        return self.norm(self.decoder(DecoderState(x), at, train=train).x)[:, 1:]

    def logits(self, hidden: Float[Array, '*b d']) -> Float[Array, '*b K']:
        """Computes the logits of all codewords, whatever their cluster."""
        return self.output(hidden)

    def __call__(self, coarse: Int[Array, 'b n'], labels: Int[Array, ' b']) -> Float[Array, 'b n K']:
        """Computes the logits of all codewords; for small cases only."""
        return self.logits(self.head_inputs(coarse, labels))


@dataclasses.dataclass(frozen=True)
class CTF(Generator):
    """Coarse-to-fine generator: LlamaGen over clusters, and a network that predicts the codewords in one pass.

    The variable 'cluster_of' in the collection 'frozen' is the cluster of each codeword (`CodeClusters`).  In fresh
    variables it is a placeholder, equal runs of ids, which training replaces by clusters of the codebook.

    For tokens of one codebook and one grain.

    Attributes:
      clusters: number of clusters of the codewords.
      layers, heads, width: of LlamaGen.
      fine_layers, fine_heads, fine_width: of the second network.
      dropout, condition_dropout, remat, dtype: of both networks.
      cond_rope, cache_dtype: of LlamaGen.
    """

    initializers = (CodewordClusters('frozen/cluster_of'),)

    clusters: int = 512
    layers: int = 12
    heads: int = 12
    width: int = 768
    fine_layers: int = 24
    fine_heads: int = 16
    fine_width: int = 1024
    dropout: float = 0.1
    condition_dropout: float = 0.1
    cond_rope: str = 'zero'
    remat: bool = False
    dtype: Any = jnp.float32
    cache_dtype: Any = None

    def __post_init__(self) -> None:
        if len(self.spec.codebook_sizes) != 1 or self.spec.grains != (1,):
            raise UserError(
                'CTF needs tokens of one codebook and one grain, the tokenizer has codebooks '
                f'{self.spec.codebook_sizes} and grains {self.spec.grains}'
            )
        if not 1 <= self.clusters <= self.spec.codebook_sizes[0]:
            raise UserError(f'{self.spec.codebook_sizes[0]} codewords cannot make {self.clusters} clusters')

    @property
    def coarse(self) -> LlamaGen:
        """First stage, a LlamaGen over clusters."""
        return LlamaGen(
            TokenSpec((self.clusters,), self.spec.downsample_factor),
            self.grid,
            self.num_classes,
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            dropout=self.dropout,
            condition_dropout=self.condition_dropout,
            cond_rope=self.cond_rope,
            remat=self.remat,
            dtype=self.dtype,
            cache_dtype=self.cache_dtype,
        )

    @property
    def fine(self) -> FineNetwork:
        """Second stage, which predicts codewords."""
        return FineNetwork(
            self.spec.codebook_sizes[0],
            self.clusters,
            self.grid,
            self.num_classes,
            self.fine_layers,
            self.fine_heads,
            self.fine_width,
            self.dropout,
            self.remat,
            self.dtype,
        )

    def init(self, rng: jax.Array) -> Variables:
        for_coarse, for_fine = jax.random.split(rng)
        ids = jnp.zeros((1, math.prod(self.grid)), jnp.int32)
        size = self.spec.codebook_sizes[0]
        return {
            'params': {
                'coarse': self.coarse.init(for_coarse)['params'],
                'fine': self.fine.init(for_fine, ids, ids[:, 0])['params'],
            },
            'frozen': {'cluster_of': jnp.asarray(np.arange(size) * self.clusters // size, jnp.int32)},
        }

    def loss(
        self,
        variables: Variables,
        tokens: Tokens,
        cond: Condition,
        rng: jax.Array,
        *,
        train: bool,
    ) -> GeneratorLoss:
        """Computes the cross-entropy of clusters plus that of codewords given all clusters, in nats per position.

        The sum is minus the log-likelihood of the ids.  The stages share no parameters, so each trains as if alone,
        apart from gradient clipping by the norm over both.
        """
        labels = class_labels(cond)
        for_coarse, for_drop, for_fine = jax.random.split(rng, 3)
        cluster_of, params = variables['frozen']['cluster_of'], variables['params']
        ids = jnp.asarray(tokens.ids)
        coarse = self.coarse.loss(
            {'params': params['coarse']}, Tokens(cluster_of[ids]), labels, for_coarse, train=train
        ).loss
        if train and self.condition_dropout:
            dropped = draw_dropped(for_drop, self.condition_dropout, len(labels))
            labels = jnp.where(dropped, self.num_classes, labels)
        ids = ids.reshape(len(ids), -1)
        hidden: Any = self.fine.apply(
            {'params': params['fine']},
            cluster_of[ids],
            labels,
            train=train,
            rngs={'dropout': for_fine},
            method='head_inputs',
        )
        fine = cross_entropy(hidden, params['fine']['output']['kernel'], ids, groups=cluster_of).nll.mean()
        return GeneratorLoss(
            coarse + fine, {'coarse': coarse, 'fine': fine, 'bits_per_token': (coarse + fine) / math.log(2)}
        )

    def prepare_for_sampling(self, variables: Variables) -> Variables:
        """Prepares the first stage, which runs position by position."""
        params = variables['params']
        coarse = self.coarse.prepare_for_sampling({'params': params['coarse']})
        return variables | {'params': params | {'coarse': coarse['params']}}

    def sample(
        self,
        variables: Variables,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """Samples clusters, then codewords with the options `config.second`.

        `second=None` samples codewords at the temperature of the clusters, without top-k, top-p and guidance.
        """
        for_coarse, for_fine = jax.random.split(rng)
        first = dataclasses.replace(config, second=None)
        coarse = self.coarse.sample({'params': variables['params']['coarse']}, cond, for_coarse, sample_ids, first)
        second = config.second or SampleConfig(temperature=config.temperature)
        return self.refine(variables, coarse, cond, for_fine, sample_ids, second)

    def refine(
        self,
        variables: Variables,
        coarse: Tokens,
        cond: Condition,
        rng: jax.Array,
        sample_ids: Int[Array, ' b'],
        config: SampleConfig,
    ) -> Tokens:
        """Samples a member of each cluster; the arguments are those of `sample`.

        Raises:
          UserError: guidance is on, but the generator was trained without a null class.
        """
        labels, clusters = class_labels(cond), jnp.asarray(coarse.ids).reshape(len(sample_ids), -1)
        guided, b = config.guidance_scale != 1, len(sample_ids)
        seen = clusters
        if guided:
            require_null_condition(self.condition_dropout)
            labels = jnp.concatenate([labels, jnp.full_like(labels, self.num_classes)])
            seen = jnp.tile(clusters, (2, 1))
        fine = {'params': variables['params']['fine']}
        hidden: Any = self.fine.apply(fine, seen, labels, method='head_inputs')
        scales = jnp.asarray(guidance_scales(config, clusters.shape[1]))
        keys, cluster_of = row_keys(rng, sample_ids), variables['frozen']['cluster_of']

        def sample_position(position: jax.Array) -> jax.Array:  # the logits of all positions could be gigabytes
            logits: Any = self.fine.apply(fine, hidden[:, position], method='logits')
            if guided:
                logits = guide(logits, scales[position])
            member = cluster_of == clusters[:, position, None]
            return draw(jnp.where(member, logits, -jnp.inf), fold_in_rows(keys, position), config)

        ids = jax.lax.map(sample_position, jnp.arange(clusters.shape[1]))
        return Tokens(ids.T.reshape(b, *self.grid, 1))
