"""Quantizers against numbers of the official code: recorded vectors in, recorded ids and losses out."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import Pack, assert_close, load_pack

from vistok.tokenizers.codebooks.codebook import LearnedCodebook
from vistok.tokenizers.quantizers.factorized import FactorizedQuantizer, disentangle_loss
from vistok.tokenizers.quantizers.vector import QuantizerOutput, VectorQuantizer


def codewords(pack: Pack, name: str = 'quantize') -> np.ndarray:
    return pack.state_dict(prefix=f'{name}.')['embedding.weight']


def quantizer(rows: np.ndarray, **kwargs) -> VectorQuantizer:
    return VectorQuantizer(LearnedCodebook(*rows.shape), **kwargs)


def run(module: nn.Module, params: dict, z) -> QuantizerOutput:
    return module.apply({'params': params}, z, train=True)


def assert_ids(ids, recorded: np.ndarray, margin: np.ndarray) -> None:
    sure = margin.ravel() > 1e-3
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(ids).ravel()[sure], recorded.ravel()[sure])


@pytest.mark.parametrize('name', ['llamagen_vq16', 'llamagen_vq8'])
def test_llamagen(name):
    pack = load_pack(name)
    rows = codewords(pack)
    params = {'codebook': {'codewords': rows}}
    q = quantizer(rows, normalize=True, entropy_weight=0.1)
    out = run(q, params, jnp.asarray(pack.nhwc('z')))
    assert_ids(out.ids, pack['indices'], pack['margin_rel'])
    assert_close(out.z_q, pack.nhwc('quant'))
    np.testing.assert_allclose(out.losses['codebook'], pack['train_vq_loss'], rtol=1e-4)
    np.testing.assert_allclose(out.losses['commitment'], pack['train_commit_loss'], rtol=1e-4)
    np.testing.assert_allclose(out.losses['entropy'], pack['train_entropy_loss_r0p1'], rtol=1e-3)
    recorded = jnp.asarray(pack['indices'].reshape(out.ids.shape))
    assert_close(q.apply({'params': params}, recorded, method='embed'), pack.nhwc('quant'))


def test_taming():
    pack = load_pack('taming_vqgan_f16_1024')
    rows = codewords(pack)
    params = {'codebook': {'codewords': rows}}
    z = jnp.asarray(pack.nhwc('z'))
    out = run(quantizer(rows, codebook_weight=0.25, commitment_weight=1.0), params, z)
    assert_ids(out.ids, pack['indices'], pack['margin_rel'])
    assert_close(out.z_q, pack.nhwc('quant'))
    np.testing.assert_allclose(sum(out.losses.values()), pack['codebook_loss'], rtol=1e-4)
    out = run(quantizer(rows, codebook_weight=1.0, commitment_weight=0.25), params, z)
    np.testing.assert_allclose(sum(out.losses.values()), pack['codebook_loss_legacy_false'], rtol=1e-4)


@pytest.mark.parametrize(
    ('name', 'factors'), [('fqgan_dual', ('vis', 'sem')), ('fqgan_triple', ('vis', 'sem_mid', 'sem_high'))]
)
def test_fqgan(name, factors):
    pack = load_pack(name)
    rows = {factor: codewords(pack, f'quantize_{factor}') for factor in factors}
    params = {factor: {'codebook': {'codewords': table}} for factor, table in rows.items()}
    q = FactorizedQuantizer(
        tuple(quantizer(table, normalize=True, entropy_weight=0.03) for table in rows.values()), factors
    )
    out = run(q, params, {factor: jnp.asarray(pack.nhwc(f'z_{factor}')) for factor in factors})
    for i, factor in enumerate(factors):
        assert_ids(out.ids[..., i], pack[f'indices_{factor}'], pack[f'{factor}_margin_rel'])
        np.testing.assert_allclose(out.losses[f'codebook/{factor}'], pack[f'train_{factor}_vq'], rtol=1e-4)
        np.testing.assert_allclose(out.losses[f'commitment/{factor}'], pack[f'train_{factor}_commit'], rtol=1e-4)
        np.testing.assert_allclose(out.losses[f'entropy/{factor}'], pack[f'train_{factor}_entropy_r0p03'], rtol=1e-3)
    assert_close(out.z_q, pack.nhwc('quant'))
    parts = q.apply({'params': params}, out.z_q, method='split')
    np.testing.assert_allclose(0.1 * disentangle_loss(list(parts.values())), pack['disentangle_loss'], rtol=1e-4)
