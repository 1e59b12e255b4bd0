"""Training runs of models that the registry does not know: one row is all that a new model takes."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import vistok
from vistok.errors import UserError
from vistok.experiments import registry
from vistok.experiments.config_files import load_config
from vistok.experiments.run_folder import read_checkpoint
from vistok.tokenizers.vqgan import VQGAN

ROWS = np.arange(32 * 4, dtype=np.float32).reshape(32, 4)


@dataclasses.dataclass(frozen=True)
class GivenRows:
    """Initializer that puts given rows into the toy's frozen table; its setting scales them."""

    option: str = 'scale'

    def arrays(self, model, settings, data):
        assert next(data.training_views(3))['image'].shape == (3, data.image_size, data.image_size, 3)
        return {'frozen/table/rows': settings * ROWS}


class Table(nn.Module):
    """Frozen rows."""

    @nn.compact
    def __call__(self):
        return self.variable('frozen', 'rows', lambda: jnp.zeros((32, 4))).value


class Toy(VQGAN):
    """VQGAN that adds the mean of a frozen table to its images."""

    initializers: ClassVar = (GivenRows(),)

    def setup(self):
        super().setup()
        self.table = Table()

    def decode_latents(self, latents):
        return super().decode_latents(latents) + 0 * self.table().mean()


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(registry.MODELS, 'toy', registry.Model(registry.TOKENIZER, Toy, 'vqgan'))
    config = load_config('configs/vqgan.py:tiny')
    config.model.update(name='toy', codebook_size=32)
    config.train.update(steps=1, devices=1)
    with config.unlocked():
        config.scale = 0.5
    return config


def test_a_toy_model_with_a_frozen_table_trains_by_one_registration_line(config, tmp_path):
    run = vistok.train(config, tmp_path / 'run', show_progress=False)
    assert (run.step, run.stopped) == (1, False)
    assert str(run).startswith('PSNR ')
    _, tree = read_checkpoint(run.folder)
    np.testing.assert_array_equal(tree['model_state']['tokenizer']['frozen']['table']['rows'], ROWS / 2)
    assert type(vistok.load(run.folder).module) is Toy


def test_a_setting_of_another_models_initializer_is_refused(config, tmp_path):
    config.model.name = 'vqgan'
    with pytest.raises(UserError, match=r'config\.scale is set, but a VQGAN has no place for it'):
        vistok.train(config, tmp_path / 'run', show_progress=False)
    assert not (tmp_path / 'run').exists()


def test_an_initial_value_without_a_place_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(GivenRows, 'arrays', lambda *args: {'frozen/table/row': ROWS})
    with pytest.raises(UserError, match=r'given for frozen/table/row, but the model has no such array'):
        vistok.train(config, tmp_path / 'run', show_progress=False)


def test_every_row_of_the_registry_has_a_class_of_its_own_and_a_config_that_trains_it():
    classes = [row.cls for row in registry.MODELS.values()]
    assert len({*classes}) == len(classes)
    for name, row in registry.MODELS.items():
        if row.config:
            assert vistok.config(row.config).model.name == name
