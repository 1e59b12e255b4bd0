"""Control-GIC: shares are kept for any image of any size, and tokens alone are enough to decode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_packs import random_variables
from skimage import data

from vistok.tokenizers.control_gic import ControlGIC, ControlGICSimVQ
from vistok.tokenizers.tokenizer import Tokens, fit_to_grid
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.weights.rules import variable_shapes

SIZES = {
    'channels': 8, 'channel_multipliers': (1, 1, 2, 2), 'res_blocks': 1, 'attention_levels': (), 'codebook_size': 16,
}  # fmt: skip
IMAGES = (data.chelsea()[None, 100:132, 100:132] / 127.5 - 1).astype(np.float32)


@pytest.fixture(scope='module')
def model():
    module = ControlGIC(**SIZES)
    return TrainedTokenizer(module, random_variables(variable_shapes(module, jnp.asarray(IMAGES))))


@pytest.mark.parametrize('sides', [(1, 1), (33, 1), (1, 50), (17, 31), (32, 32)])
def test_any_size_is_padded_encoded_and_cut_back(model, sides):
    images = np.resize(IMAGES, (1, *sides, 3)).astype(np.float32)
    fitted = fit_to_grid(images, model.spec)
    assert all(side % model.spec.cell == 0 for side in fitted.shape[1:3])
    assert all(0 <= new - old < model.spec.cell for new, old in zip(fitted.shape[1:3], sides, strict=True))
    np.testing.assert_array_equal(fitted[:, : sides[0], : sides[1]], images)
    grain = np.asarray(model.module.route(jnp.asarray(fitted), (0.25, 0.25, 0.5)))
    missed = [(grain == side).sum() - share * grain.size for side, share in ((4, 0.25), (2, 0.25), (1, 0.5))]
    assert np.abs(missed).max() <= 16 / 2


def test_padding_continues_by_reflection_however_far():
    line = np.arange(3, dtype=np.float32)[None, None, :, None].repeat(3, -1)
    spec = ControlGIC(**SIZES).spec
    assert fit_to_grid(line, spec)[0, 0, :, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert fit_to_grid(line[:, :, 1:2], spec)[0, :, :, 0].tolist() == [[1.0] * 8] * 8


def test_tokens_alone_are_enough_and_their_grains_matter(model):
    tokens = model.encode(IMAGES, grain_ratios=(0.25, 0.25, 0.5))
    output = model(IMAGES)
    again = Tokens(np.asarray(tokens.ids), np.asarray(tokens.grain))
    decoded = model.decode(again)
    np.testing.assert_array_equal(decoded, model.decode_latents(model.embed(tokens), tokens.grain))
    assert np.abs(decoded - model.decode(Tokens(tokens.ids, jnp.ones_like(tokens.grain)))).max() > 1e-3
    np.testing.assert_array_equal(
        model.decode(Tokens(tokens.ids)), model.decode(Tokens(tokens.ids, jnp.ones_like(tokens.grain)))
    )
    np.testing.assert_allclose(model.decode(output.tokens), output.reconstruction, atol=1e-5)


def test_shares_come_from_the_model_or_from_the_call(model):
    shares = {side: np.mean(model.encode(IMAGES).grain == side) for side in (4, 2, 1)}
    assert shares == pytest.approx({4: 0.1, 2: 0.4, 1: 0.5}, abs=0.5 / 16)
    for ratios in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.0, 0.5)):
        tokens = model.encode(IMAGES, grain_ratios=ratios)
        assert [np.mean(tokens.grain == side) for side in (4, 2, 1)] == list(ratios)
        blocks = np.asarray(tokens.ids)[0, :, :, 0]
        coarse = blocks.reshape(-1, 4, blocks.shape[1] // 4, 4)
        if ratios[0] == 1:
            assert (coarse == coarse[:, :1, :, :1]).all()
    with pytest.raises(ValueError, match='add up to 1'):
        model.encode(IMAGES, grain_ratios=(0.5, 0.5, 0.5))


def test_ranking_by_spread_keeps_shares_and_has_maps_with_fewer_changes():
    images = jnp.asarray(data.chelsea()[None, :288, :448] / 127.5 - 1, jnp.float32)
    changes = []
    for density in ('entropy', 'spread'):
        grain = np.asarray(ControlGIC(**SIZES, density=density).bind({}).route(images, (0.1, 0.4, 0.5)))[0]
        assert [np.mean(grain == side) for side in (4, 2, 1)] == pytest.approx([0.1, 0.4, 0.5], abs=1e-3)
        changes.append(np.count_nonzero(np.diff(grain)) + np.count_nonzero(np.diff(grain, axis=0)))
    assert changes[1] < 0.8 * changes[0]
    with pytest.raises(ValueError, match="density is 'entropy' or 'spread', got 'variance'"):
        ControlGIC(**SIZES, density='variance').bind({}).route(images, (0.1, 0.4, 0.5))


def test_shares_are_random_in_training_only_and_only_if_wanted():
    def grains(random_shares, train):
        module = ControlGIC(**SIZES, random_shares=random_shares)
        shapes = variable_shapes(module, jnp.asarray(IMAGES))
        run = jax.jit(
            lambda v, key: module.apply(v, jnp.asarray(IMAGES), train=train, rngs={'sampling': key}).tokens.grain
        )
        variables = random_variables(shapes)
        return [np.asarray(run(variables, jax.random.key(i))) for i in range(6)]

    assert len({grain.tobytes() for grain in grains(True, True)}) > 3
    assert len({grain.tobytes() for grain in grains(True, False)}) == 1


def test_unit_range_is_a_matter_of_the_networks_only(model):
    unit = TrainedTokenizer(ControlGIC(**SIZES, unit_range=True), model.variables)
    tokens = unit.encode(IMAGES, grain_ratios=(0.0, 0.0, 1.0))
    np.testing.assert_array_equal(tokens.ids, model.encode((IMAGES + 1) / 2, grain_ratios=(0.0, 0.0, 1.0)).ids)
    np.testing.assert_allclose(unit.decode(tokens), 2 * model.decode(tokens) - 1, atol=1e-6)


def test_tokenizers_without_grains_take_no_shares():
    from vistok.tokenizers.vqgan import VQGAN

    with pytest.raises(ValueError, match='VQGAN has no grains'):
        TrainedTokenizer(VQGAN(), {}).encode(IMAGES, grain_ratios=(0.5, 0.5))


def test_the_codebook_of_simvq_takes_the_place_of_the_learned_one():
    sizes = {'channels': 8, 'channel_multipliers': (1, 1, 2), 'attention_levels': (), 'codebook_size': 32}
    plain, projected = (
        variable_shapes(cls(**sizes), jnp.zeros((1, 16, 16, 3))) for cls in (ControlGIC, ControlGICSimVQ)
    )
    assert 'frozen' not in plain
    assert [leaf.shape for leaf in jax.tree.leaves(projected['frozen'])] == [(32, 4)]
    assert plain['params'].pop('quantizer') != projected['params'].pop('quantizer')
    assert jax.tree.map(lambda leaf: leaf.shape, plain) == {
        'params': jax.tree.map(lambda leaf: leaf.shape, projected['params'])
    }
