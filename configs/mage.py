"""MAGE (Li et al. 2023, "MAGE: MAsked Generative Encoder"): predicts hidden tokens, and is what ADDP learns from.

    python launch/train.py --config=configs/vqgan.py:digits
    python launch/extract_tokens.py --model=runs/vqgan-digits
    python launch/train.py --config=configs/mage.py

trains on tokens of handwritten digits that ship inside installed packages, on two CPU cores.  Variants, joined by
commas:

  cifar10      tokens of CIFAR-10 (runs/vqgan-cifar10), 8x8 of them
  imagenet256  size B by the paper's recipe: 16x16 tokens, batch 4096, 1,600 epochs, without classes, of images that a
               tokenizer (--config.tokenizer) encodes as they come.  Their crops are resized bicubically, as in ADDP's
               code (MAGE's: bilinearly).  The paper gives FID 11.1; not reproduced here.
  large        with imagenet256: size L.  The paper gives FID 9.1.
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import generator, variants

# The published sizes.
SIZES = {
    'base': {'width': 768, 'encoder_layers': 12, 'encoder_heads': 12, 'decoder_layers': 8, 'decoder_heads': 16},
    'large': {'width': 1024, 'encoder_layers': 24, 'encoder_heads': 16, 'decoder_layers': 8, 'decoder_heads': 16},
}
SMALL = {'width': 128, 'encoder_layers': 3, 'encoder_heads': 4, 'decoder_layers': 2, 'decoder_heads': 4}
TINY = {'width': 16, 'encoder_layers': 1, 'encoder_heads': 2, 'decoder_layers': 1, 'decoder_heads': 2}


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = base('mage')
    return variants.merge(
        config,
        variant,
        data={'cifar10': cifar10, 'imagenet256': _imagenet256},
        size={'large': large, 'tiny': tiny},
    )


def base(name: str) -> ConfigDict:
    """Returns the settings that masked-token generators share, at the size for digits."""
    config = generator.base()
    config.model = ConfigDict(
        {
            'name': name,
            **SMALL,
            'dropout': 0.0,  # hidden tokens are noise enough for networks of this size
            'label_dropout': 0.1,  # 1: a label that is always dropped is none
            'label_smoothing': 0.1,
            'codes_only': True,  # the published ADDP also predicts labels
            'detached': False,  # the published models do not train codeword vectors through the predictions
            'steps': 8,
            'schedule': 'cosine',  # or 'linear'
            'choice_temperature': 4.5,
            'dtype': 'float32',
            'remat': False,
        }
    )
    generator.digits(config)
    config.train.steps = 1_000
    return config


def cifar10(config: ConfigDict) -> None:
    """Selects tokens of CIFAR-10 and doubles the width."""
    config.model.update(width=256, encoder_layers=6, encoder_heads=4)
    config.data.update(source='tokens:runs/vqgan-cifar10/tokens', flip=True, threads=4)
    config.train.update(steps=10_000)
    config.evaluate.update(every=2_500, batch_size=500)


def paper_size(config: ConfigDict) -> None:
    """Selects size B on ImageNet: the recipe that MAGE and ADDP share, with MAGE's number of epochs."""
    generator.full_recipe(config)
    epoch = 1_281_167 // 4096
    config.model.update(**SIZES['base'], dropout=0.1, label_dropout=1.0, detached=True, dtype='bfloat16')
    config.model.update(steps=20, choice_temperature=6.0)
    config.data.update(source='tfds:imagenet2012', augmentation='random_resized_crop')
    config.optimizer.update(
        learning_rate=1.5e-4 * 4096 / 256, schedule='cosine', warmup_steps=40 * epoch, clip_norm=3.0
    )
    config.train.update(steps=1_600 * epoch, batch_size=4096, ema_decay=0.0)
    config.sample.guidance_scale = 1.0


def large(config: ConfigDict) -> None:
    """Selects size L, with recomputation in the backward pass."""
    config.model.update(**SIZES['large'], remat=True)


def tiny(config: ConfigDict) -> None:
    """Shrinks the model and the run for tests."""
    generator.tiny(config)
    config.model.update(**TINY, steps=3)


def _imagenet256(config: ConfigDict) -> None:
    paper_size(config)
