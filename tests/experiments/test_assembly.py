"""Training steps from configs: which settings reach them, which are refused."""

import pytest
from toy_objective import ToyObjective

from vistok.errors import UserError
from vistok.experiments.assembly import build_train_step
from vistok.experiments.config_files import load_config

PUBLISHED_WITH_TWO_PASSES = (
    'control_gic.py:imagenet256',
    'dq_vae.py:imagenet256',
    'vqgan.py:imagenet256,taming',
    'vqgan_lc.py:imagenet256',
)
SHARED = ('fqgan.py:imagenet256', 'simvq.py:imagenet128', 'vqgan.py:imagenet256', 'vqgan_lc.py', 'dq_vae.py', 'mage.py')


@pytest.mark.parametrize(
    ('name', 'fresh'), [*((name, True) for name in PUBLISHED_WITH_TWO_PASSES), *((name, False) for name in SHARED)]
)
def test_the_discriminators_pass_is_that_of_the_paper_and_shared_elsewhere(name, fresh):
    assert build_train_step(load_config(f'configs/{name}'), ToyObjective()).fresh_passes == fresh


def test_a_config_older_than_the_key_shares_the_pass_and_keeps_the_epsilon():
    config = load_config('configs/vqgan.py')
    del config.objective['discriminator_pass'], config.optimizer['eps']
    assert not build_train_step(config, ToyObjective()).fresh_passes


def test_an_unknown_pass_is_refused_in_one_sentence():
    config = load_config('configs/vqgan.py')
    config.objective.discriminator_pass = 'own'
    with pytest.raises(UserError, match=r"^unknown objective\.discriminator_pass 'own'; known: shared, fresh$"):
        build_train_step(config, ToyObjective())
