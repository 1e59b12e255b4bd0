"""Base config of tokenizers: every key with its meaning, at the values of the paper-sized recipe.

Not an experiment of its own.  `variants.py` is how a config file offers variants.
"""

from ml_collections import ConfigDict

# Sizes of the convolutional autoencoder.  Attention besides the middle: None is the coarsest level, () none.
SMALL_NETWORK = {
    'channels': 16,
    'channel_multipliers': (1, 2, 2),
    'res_blocks': 1,
    'attention_levels': (),
    'latent_channels': 64,
}
VQ16_NETWORK = {
    'channels': 128,
    'channel_multipliers': (1, 1, 2, 2, 4),
    'res_blocks': 2,
    'attention_levels': None,
    'latent_channels': 256,
}
TINY_NETWORK = {'channels': 8, 'channel_multipliers': (1, 2), 'latent_channels': 16}


def base() -> ConfigDict:
    """Returns LlamaGen's recipe for ImageNet at 256x256 pixels (Sun et al. 2024, section 3.1 and training code)."""
    return ConfigDict(
        {
            'model': {'name': ''},  # the rest are arguments of the model's class
            'objective': {
                'pixel_loss': 'l2',  # 'l2' or 'l1'
                'pixel_weight': 1.0,
                'perceptual': 'lpips',  # perceptual distance: 'lpips', 'stand_in_perceptual', or '' for none
                'perceptual_weight': 1.0,
                'representation_weight': 0.0,  # of predicting the teachers' features (FQGAN)
                'representation_temperature': 1.0,
                'representation_group': 0,  # images among which each finds its own features; 0: the whole batch
                'discriminator': 'patchgan',  # 'patchgan', 'stylegan', or '' for none
                'discriminator_channels': 64,  # PatchGAN: width of the first layer
                'discriminator_layers': 3,  # PatchGAN: layers with stride 2
                # 'hinge', 'vanilla', 'non_saturating', 'hinge_non_saturating' (softplus of each patch's logit), or
                # 'hinge_image_non_saturating' (softplus of each image's mean logit)
                'adversarial_loss': 'hinge',
                'adversarial_weight': 0.5,
                'discriminator_weight': 0.5,
                'adaptive_weight': False,  # scale the adversarial weight by gradient norms at the last layer
                'adaptive_maximum': 1e4,  # the largest such scale
                'discriminator_start': 20_000,  # step
                'discriminator_ramp': 0,  # steps from no to full weight
                # 'shared': from the forward pass of the tokenizer's update; 'fresh': from one of its own after it
                'discriminator_pass': 'shared',
                'lecam_weight': 0.0,
            },
            # Files of official weights, by frozen network; not part of this project.
            'judges': {'lpips': '', 'lpips_sha256': '', 'clip_l14': '', 'clip_b16': '', 'dinov2_s': ''},
            'optimizer': {
                'learning_rate': 1e-4,
                'schedule': 'constant',  # 'constant', 'cosine', 'linear' or 'annealing'
                'warmup_steps': 0,
                'initial_fraction': 0.0,  # of the learning rate, at the start of the warm-up
                'final_fraction': 0.0,  # of the learning rate, at the end of a decay
                'hold_fraction': 0.3,  # 'annealing': of the steps after warm-up, before the decay
                'b1': 0.9,
                'b2': 0.95,
                'eps': 1e-8,  # of Adam, added to the root of the second moment
                'weight_decay': 0.0,
                'decayed': 'matrices',  # what decays: 'matrices', 'kernels' (without embeddings) or 'all'
                'clip_norm': 1.0,  # of each player's gradient; 0 clips nothing
                'discriminator_rate': 1.0,  # learning rate of the discriminator, relative to the tokenizer's
            },
            'data': {
                'source': 'tfds:imagenet2012',  # 'tfds:NAME', 'embedded:photographs' or 'embedded:digits', folder, zip
                'data_dir': '',  # where TFDS datasets lie; '' is TFDS's default
                'image_size': 256,
                # or 'zoom_crop', 'random_resized_crop', 'shorter_side_crop', 'random_crop', 'centre_crop'
                'augmentation': 'resize_crop',
                'flip': True,  # wrong for digits and text
                'threads': 8,
            },
            'train': {
                'steps': 400_000,
                'batch_size': 128,  # of all devices together
                'accumulate': 1,  # parts a batch is cut into to save memory
                'seed': 0,
                'ema_decay': 0.0,  # 0 keeps no moving average
                'runner': 'jit',  # 'jit' (any mesh) or 'pmap' (data parallel)
                'mesh': {'data': -1, 'fsdp': 1, 'model': 1},
                'devices': 0,  # 0 uses all
                'log_every': 100,
                'checkpoint_every': 5_000,
                'keep': 2,  # newest checkpoints; the best one stays as well
            },
            'evaluate': {
                'every': 5_000,
                'image_size': 0,  # 0: that of the training crops
                'batch_size': 128,
                'pictures': 16,  # on the reconstruction sheet
                'best_metric': 'psnr',  # decides which checkpoint is kept as the best
            },
            'variants': '',  # that were merged, in their order
            'init_from': '',  # a run folder, or a file of official or converted weights, to start from
        }
    )


def full_recipe(config: ConfigDict) -> None:
    """Restores everything but the model as in `base`; undoes `photographs`."""
    recipe = base()
    for block in ('objective', 'optimizer', 'data', 'train', 'evaluate'):
        config[block].update(recipe[block])


def photographs(config: ConfigDict) -> None:
    """Selects the embedded photographs, at a size for two CPU cores, with stand-ins for pretrained networks."""
    config.objective.pixel_weight = 10.0  # in 480 steps the codebooks' own losses would outweigh the image
    config.objective.perceptual = 'stand_in_perceptual'
    config.objective.perceptual_weight = 0.05
    config.objective.discriminator_channels = 16
    config.objective.discriminator_layers = 2
    config.objective.discriminator_start = 350
    config.objective.discriminator_ramp = 100
    config.objective.adversarial_weight = 0.01
    config.optimizer.update(learning_rate=1.5e-3, schedule='cosine', warmup_steps=20, final_fraction=0.05)
    config.data.update(source='embedded:photographs', image_size=64, augmentation='zoom_crop', threads=2)
    config.train.update(steps=480, batch_size=8, log_every=50, checkpoint_every=240, ema_decay=0.98)
    config.evaluate.update(every=240, image_size=128, batch_size=28, pictures=8)


def digits(config: ConfigDict) -> None:
    """Selects the embedded digits at 32x32 pixels; on top of `photographs`."""
    config.data.update(source='embedded:digits', image_size=32, augmentation='resize_crop', flip=False)
    config.objective.discriminator = ''  # strokes are sharp without one
    config.train.update(steps=600, batch_size=32, log_every=100, checkpoint_every=300)
    config.evaluate.update(every=300, image_size=0, batch_size=120)


def cifar10(config: ConfigDict) -> None:
    """Selects CIFAR-10, a small real run at 32x32 pixels; on top of `photographs`."""
    config.data.update(source='tfds:cifar10', image_size=32, augmentation='centre_crop', threads=4)
    config.objective.update(discriminator_start=1_000, discriminator_ramp=500)
    config.train.update(steps=2_000, batch_size=32, log_every=50, checkpoint_every=500)
    config.evaluate.update(every=1_000, image_size=0, batch_size=500, pictures=16)


def tiny(config: ConfigDict) -> None:
    """Shrinks the run to seconds, for tests; on top of `photographs`."""
    config.data.image_size = 16
    config.objective.update(discriminator_channels=8, discriminator_start=0, discriminator_ramp=0)
    config.optimizer.warmup_steps = 0
    config.train.update(steps=2, batch_size=8, log_every=1, checkpoint_every=1)
    config.evaluate.update(every=2, image_size=0, batch_size=28, pictures=2)
