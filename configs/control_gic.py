"""Control-GIC (Li et al. 2025, "Once-for-All: Controllable Generative Image Compression"): shares set the bit rate.

    python launch/train.py --config=configs/control_gic.py

trains on two CPU cores, on photographs that ship inside installed packages; cells of 16, 8 and 4 pixels.  Variants,
joined by commas:

  random_shares  each batch has random shares of the three grains, so that one model serves every rate; without, it is
                 trained at the paper's 10, 40 and 50 %
  codec          a model for any rate, to be trained for hours on two CPU cores on a folder of photographs
                 (--config.data.source=FOLDER), with SimVQ's codebook
  cifar10        CIFAR-10 at 32x32, cells of 8, 4 and 2 pixels, 2,000 steps; --config.data.source names a folder or
                 zip instead of TFDS
  imagenet256    the paper's recipe: 256x256, batch 8, 165,000 steps, LPIPS.  The paper trains on OpenImages v6
                 (--config.data.source=FOLDER).  Here gradients are clipped by norm, there by value; LPIPS is on VGG16,
                 there on AlexNet; shares are exact for each image, there over the batch (model.strict_thresholds).  Its
                 figures belong to settings that are not fully published; not reproduced here.
  tiny           for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import tokenizer, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = tokenizer.base()
    config.model = ConfigDict(
        {
            'name': 'control_gic',
            'grain_ratios': (0.1, 0.4, 0.5),  # shares of the area: coarse, medium, fine
            'random_shares': False,
            'density': 'entropy',  # of which cells are ranked; or 'spread', for fewer errors and cheaper maps
            'entropy_range': (-1.0, 1.0),
            'unit_range': False,
            'strict_thresholds': False,
            'codebook_size': 512,
            'codebook_dim': 4,
            'normalize': True,  # in 480 steps the codewords could not follow vectors of any length
            'channels': 16,
            'channel_multipliers': (1, 2, 2, 2, 2),
            'res_blocks': 1,
            'attention_levels': (),  # besides branches and stems
            'latent_channels': 4,
            'commitment_weight': 1.0,
            'codebook_weight': 0.25,
            'dtype': 'float32',
            'remat': False,
        }
    )
    tokenizer.photographs(config)
    return variants.merge(
        config,
        variant,
        shares={'random_shares': _random_shares},
        data={'codec': _codec, 'cifar10': _cifar10, 'imagenet256': _imagenet256},
        size={'tiny': _tiny},
    )


def _random_shares(config: ConfigDict) -> None:
    config.model.random_shares = True


def _codec(config: ConfigDict) -> None:
    _random_shares(config)
    config.model.update(
        density='spread',
        name='control_gic_simvq',  # a learned codebook of 1,024 had a perplexity of 150 after 1,000 steps
        codebook_size=1024,
        codebook_dim=8,
        normalize=False,
        codebook_weight=1.0,
        commitment_weight=0.25,
        latent_channels=16,
        channel_multipliers=(1, 2, 3, 4, 4),
    )
    config.objective.discriminator = ''  # the bits are few enough: no invented detail
    config.optimizer.update(learning_rate=1e-3, warmup_steps=50, final_fraction=0.02)
    config.data.image_size = 96
    config.train.update(steps=4_500, batch_size=4, ema_decay=0.995, log_every=50, checkpoint_every=250)
    config.evaluate.update(every=1_000, image_size=192, batch_size=15)


def _cifar10(config: ConfigDict) -> None:
    tokenizer.cifar10(config)
    config.model.channel_multipliers = (1, 2, 2, 2)


def _imagenet256(config: ConfigDict) -> None:
    tokenizer.full_recipe(config)
    config.model.update(
        codebook_size=1024,
        normalize=False,
        channels=128,
        channel_multipliers=(1, 2, 2, 4, 4),
        res_blocks=2,
        attention_levels=(3,),
        dtype='bfloat16',
    )
    config.objective.update(
        discriminator_layers=2,
        adversarial_weight=0.1,
        discriminator_weight=1.0,
        discriminator_start=0,
        discriminator_pass='fresh',
    )
    config.optimizer.update(learning_rate=5e-5, b1=0.5, b2=0.9)
    config.data.update(augmentation='centre_crop', flip=False)
    config.train.update(batch_size=8, steps=165_000, ema_decay=0.9999)


def _tiny(config: ConfigDict) -> None:
    tokenizer.tiny(config)
    config.model.update(codebook_size=32, channels=8, channel_multipliers=(1, 1, 2))
