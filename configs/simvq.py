"""SimVQ (Zhu et al. 2024, "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer").

    python launch/train.py --config=configs/simvq.py

trains in minutes on two CPU cores, on photographs that ship inside installed packages.  Variants, joined by commas:

  vqgan        on VQGAN's networks instead of Open-MAGVIT2's
  plain        a codebook trained by gradient on the same networks, for comparison
  cifar10      CIFAR-10 at 32x32, 2,000 steps; --config.data.source names a folder or zip instead of TFDS
  imagenet128  the paper's recipe: 65,536 codewords at f8, 128x128, batch 256, 50 epochs, LPIPS.  The paper gives rFID
               2.24, 24.15 dB, usage 100 %; not reproduced here.  The authors' loop also leaves the generator loss's
               gradients in the discriminator, which then learns from both losses; here it learns from its own.
  1k, 8k, 262k with imagenet128: 1,024, 8,192 or 262,144 codewords; the paper gives rFID 3.67, 2.98 and 1.99
  imagenet256  65,536 codewords at f16, 256x256, on the networks and by the recipe of LlamaGen's VQ-16, for a comparison
               with other codebooks; no published number
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import tokenizer, variants

_STEPS_PER_EPOCH = 1_281_167 // 256  # ImageNet


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = tokenizer.base()
    config.model = ConfigDict(
        {
            'name': 'simvq',
            'codebook_size': 512,
            'codebook_dim': 32,
            'channels': 16,
            'channel_multipliers': (1, 2, 2),
            'res_blocks': 1,
            'commitment_weight': 0.25,
            'codebook_weight': 1.0,
            'dtype': 'float32',
            'remat': False,
        }
    )
    tokenizer.photographs(config)
    return variants.merge(
        config,
        variant,
        method={'vqgan': _vqgan, 'plain': _plain},
        data={'cifar10': tokenizer.cifar10, 'imagenet128': _imagenet128, 'imagenet256': _imagenet256},
        size={'1k': _1k, '8k': _8k, '262k': _262k, 'tiny': _tiny},
    )


def _vqgan(config: ConfigDict) -> None:
    config.model.update(name='simvq_vqgan', normalize=False, **tokenizer.SMALL_NETWORK)


def _plain(config: ConfigDict) -> None:
    config.model.name = 'magvit2_vq'


def _imagenet128(config: ConfigDict) -> None:
    tokenizer.full_recipe(config)
    config.model.update(
        codebook_size=65_536, codebook_dim=128, channels=128, channel_multipliers=(1, 2, 2, 4), res_blocks=2
    )
    config.model.dtype = 'bfloat16'
    config.objective.update(
        pixel_loss='l1',
        adversarial_loss='hinge_image_non_saturating',
        adversarial_weight=0.1,
        discriminator_weight=1.0,
        discriminator_start=0,
    )
    config.optimizer.update(learning_rate=1e-4, b1=0.5, b2=0.9, clip_norm=0.0)
    config.data.update(image_size=128, augmentation='shorter_side_crop', flip=False)
    config.train.update(batch_size=256, steps=50 * _STEPS_PER_EPOCH, ema_decay=0.999)


def _1k(config: ConfigDict) -> None:
    config.model.codebook_size = 1024


def _8k(config: ConfigDict) -> None:
    config.model.codebook_size = 8192


def _262k(config: ConfigDict) -> None:
    config.model.codebook_size = 262_144


def _imagenet256(config: ConfigDict) -> None:
    if config.model.name == 'magvit2_vq':
        raise ValueError('plain goes with imagenet128: imagenet256 is on the networks of VQ-16')
    tokenizer.full_recipe(config)
    _vqgan(config)
    config.model.update(codebook_size=65_536, codebook_dim=128, **tokenizer.VQ16_NETWORK, dtype='bfloat16')


def _tiny(config: ConfigDict) -> None:
    tokenizer.tiny(config)
    config.model.update(codebook_size=32, channels=8, channel_multipliers=(1, 2))
