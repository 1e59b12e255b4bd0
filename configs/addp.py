"""ADDP (Tian et al. 2024, "ADDP: Learning General Representations for Image Recognition and Generation").

    python launch/train.py --config=configs/vqgan.py:digits
    python launch/extract_tokens.py --model=runs/vqgan-digits
    python launch/train.py --config=configs/mage.py
    python launch/train.py --config=configs/addp.py
    python launch/sample.py --model=runs/addp --out=digits.png

goes from handwritten digits that ship inside installed packages to generated ones, on two CPU cores; MAGE is the frozen
predictor that ADDP learns from.  Its encoder, which looks at pixels, serves recognition: configs/addp_probe.py.
Variants, joined by commas:

  cifar10      tokens of CIFAR-10 (runs/vqgan-cifar10, runs/mage-cifar10), 8x8 of them
  imagenet256  size B by the paper's recipe: batch 4096, 1,600 epochs, without classes, of images that a tokenizer
               (--config.tokenizer) encodes as they come.  The paper gives FID 8.9 (against the validation images); not
               reproduced here.
  large        with imagenet256: size L, 800 epochs, from a MAGE of size L.  The paper gives FID 7.6.
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs import mage
from vistok.configs.base import variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = mage.base('addp')
    config.model.choice_temperature = 6.0
    config.train.batch_size = 64  # it looks at pixels, so that a step costs thrice what one of MAGE does
    config.predictor = 'runs/mage'  # a run of configs/mage.py (or maskgit.py) over tokens of the same tokenizer
    config.predictor_model = ConfigDict()  # filled when the run begins: what the predictor is
    return variants.merge(
        config,
        variant,
        data={'cifar10': _cifar10, 'imagenet256': _imagenet256},
        size={'large': _large, 'tiny': mage.tiny},
    )


def _cifar10(config: ConfigDict) -> None:
    mage.cifar10(config)
    config.train.batch_size = 128
    config.predictor = 'runs/mage-cifar10'


def _imagenet256(config: ConfigDict) -> None:
    mage.paper_size(config)
    config.optimizer.learning_rate = 1e-4 * 4096 / 256
    config.model.codes_only = False
    config.predictor = 'runs/mage-imagenet256'


def _large(config: ConfigDict) -> None:
    if config.data.image_size != 256:
        raise ValueError('large goes with imagenet256')
    mage.large(config)
    config.train.steps //= 2
    config.predictor = 'runs/mage-imagenet256-large'
