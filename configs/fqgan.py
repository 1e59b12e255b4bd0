"""FQGAN (Bai et al. 2024, "Factorized Visual Tokenization and Generation"): one small codebook for each factor.

    python launch/train.py --config=configs/fqgan.py

trains in about three minutes on two CPU cores, on photographs that ship inside installed packages.  Variants, joined
by commas (`--config=configs/fqgan.py:triple,cifar10`):

  triple       three codebooks (vis, sem_mid, sem_high) instead of two (vis, sem)
  digits       handwritten digits at 32x32 pixels, also embedded: 4x4 tokens, for configs/far.py
  cifar10      CIFAR-10 at 32x32, 2,000 steps; --config.data.source names a folder or zip instead of TFDS
  imagenet256  the paper's recipe: 256x256, VQ-16 size, batch 256, 200,000 steps, official networks.  The paper gives
               rFID 0.94 (dual) and 0.76 (triple); not reproduced here.
  f8           with imagenet256: 32x32 tokens per image instead of 16x16
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import tokenizer, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = tokenizer.base()
    config.model = ConfigDict(
        {
            'name': 'fqgan',
            'factors': ('vis', 'sem'),  # in the order of the decoder's input
            'teachers': ('', 'stand_in_teacher'),  # the teacher whose features each factor predicts, or ''
            'teacher_widths': (0, 64),
            'codebook_size': 512,
            'codebook_dim': 8,
            **tokenizer.SMALL_NETWORK,
            'image_size': 64,
            'adapter_layers': 1,
            'adapter_heads': 4,
            'head_layers': 1,
            'head_heads': 4,
            'commitment_weight': 0.25,
            'codebook_weight': 1.0,
            'entropy_weight': 0.03,
            'entropy_temperature': 0.01,
            'disentangle_weight': 0.1,
            'dtype': 'float32',
            'remat': False,
        }
    )
    tokenizer.photographs(config)
    config.objective.representation_weight = 0.1
    return variants.merge(
        config,
        variant,
        factors={'triple': _triple},
        data={'digits': _digits, 'cifar10': _cifar10, 'imagenet256': _imagenet256},
        size={'f8': _f8, 'tiny': _tiny},
    )


def _triple(config: ConfigDict) -> None:
    config.model.factors = ('vis', 'sem_mid', 'sem_high')
    config.model.teachers = ('', '', 'stand_in_teacher')
    config.model.teacher_widths = (0, 0, 64)


def _digits(config: ConfigDict) -> None:
    tokenizer.digits(config)
    config.model.update(channel_multipliers=(1, 2, 2, 2), codebook_size=128, image_size=32)


def _cifar10(config: ConfigDict) -> None:
    tokenizer.cifar10(config)
    config.model.image_size = 32


def _imagenet256(config: ConfigDict) -> None:
    triple = len(config.model.factors) == 3
    tokenizer.full_recipe(config)
    config.model.update(
        teachers=('', 'dinov2_s', 'clip_b16') if triple else ('', 'clip_l14'),
        teacher_widths=(0, 384, 768) if triple else (0, 1024),
        codebook_size=16_384,
        **tokenizer.VQ16_NETWORK,
        image_size=256,
        adapter_layers=6,
        adapter_heads=8,
        head_layers=3,
        head_heads=8,
        dtype='bfloat16',
    )
    config.objective.update(representation_weight=0.5, representation_group=32)
    config.optimizer.learning_rate = 2e-4
    config.train.update(batch_size=256, steps=200_000)


def _f8(config: ConfigDict) -> None:
    config.model.channel_multipliers = (1, 2, 2, 4)


def _tiny(config: ConfigDict) -> None:
    tokenizer.tiny(config)
    config.model.update(**tokenizer.TINY_NETWORK, codebook_size=32, image_size=16, adapter_heads=2, head_heads=2)
