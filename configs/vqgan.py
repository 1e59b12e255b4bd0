"""VQGAN as LlamaGen trains it (Sun et al. 2024, "Autoregressive Model Beats Diffusion", section 2.1).

    python launch/train.py --config=configs/vqgan.py

trains on two CPU cores, on photographs that ship inside installed packages.  Variants, joined
by commas:

  digits       handwritten digits at 32x32 pixels, also embedded: 4x4 tokens, for configs/llamagen.py
  cifar10      CIFAR-10 at 32x32, 2,000 steps; --config.data.source names a folder or zip instead of TFDS
  imagenet256  VQ-16 by the paper's recipe: 256x256, batch 128, 400,000 steps, LPIPS.  The paper gives rFID 2.19,
               20.79 dB; not reproduced here.
  f8           with imagenet256: VQ-8
  ema          codewords that are running means of what is assigned to them (van den Oord et al. 2017, appendix A.1)
  restart      the same, with codewords that nothing is assigned to starting again at random vectors
  taming       with imagenet256: the original VQGAN with 1,024 codewords (Esser et al. 2021; imagenet_vqgan.yaml), whose
               discriminator starts at step 250,001.  Batch 96 stands for the 8 devices of 12 images that its rate is
               computed for; the file fixes no number of steps.
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import tokenizer, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = tokenizer.base()
    config.model = ConfigDict(
        {
            'name': 'vqgan',
            'codebook_size': 512,
            'codebook_dim': 8,
            'normalize': True,
            **tokenizer.SMALL_NETWORK,
            'commitment_weight': 0.25,
            'codebook_weight': 1.0,
            'entropy_weight': 0.0,
            'entropy_temperature': 0.01,
            'dtype': 'float32',
            'remat': False,
        }
    )
    tokenizer.photographs(config)
    return variants.merge(
        config,
        variant,
        data={'digits': _digits, 'cifar10': tokenizer.cifar10, 'imagenet256': _imagenet256},
        method={'taming': _taming, 'ema': _ema, 'restart': _restart},
        size={'f8': _f8, 'tiny': _tiny},
    )


def _digits(config: ConfigDict) -> None:
    tokenizer.digits(config)
    config.model.update(channel_multipliers=(1, 2, 2, 2), codebook_size=256)


def _imagenet256(config: ConfigDict) -> None:
    tokenizer.full_recipe(config)
    config.model.update(**tokenizer.VQ16_NETWORK, codebook_size=16_384, dtype='bfloat16')


def _f8(config: ConfigDict) -> None:
    config.model.channel_multipliers = (1, 2, 2, 4)


def _taming(config: ConfigDict) -> None:
    if config.data.image_size != 256:
        raise ValueError('taming goes with imagenet256')
    config.model.update(
        codebook_size=1024, codebook_dim=256, normalize=False, codebook_weight=0.25, commitment_weight=1.0
    )
    config.objective.update(
        pixel_loss='l1',
        adversarial_weight=0.8,
        discriminator_weight=1.0,
        adaptive_weight=True,
        discriminator_start=250_001,
        discriminator_pass='fresh',
    )
    config.optimizer.update(learning_rate=4.5e-6 * 12 * 8, b1=0.5, b2=0.9, clip_norm=0.0)
    config.data.update(augmentation='shorter_side_crop', flip=False)
    config.train.batch_size = 12 * 8


def _ema(config: ConfigDict) -> None:
    config.model.update(name='vqgan_ema', normalize=False, codebook_weight=0.0, codebook_decay=0.99, restart=False)


def _restart(config: ConfigDict) -> None:
    _ema(config)
    config.model.restart = True


def _tiny(config: ConfigDict) -> None:
    tokenizer.tiny(config)
    config.model.update(**tokenizer.TINY_NETWORK, codebook_size=32)
