"""Linear probing and fine-tuning of ADDP's encoder as an image classifier.

    python launch/train.py --config=configs/addp_probe.py

needs a run of configs/addp.py (`--config.encoder=runs/addp`) and reports the accuracy on unseen images, by default on
the digits that ship inside installed packages.  Variants, joined by commas:

  finetune     the encoder is trained as well
  plain        whole images instead of random crops, no weight decay, no smoothing of labels: the features alone;
               after finetune, fine-tuning without regularisers
  imagenet256  ImageNet at 256x256, for size B: the linear probe of MAGE's code.  LARS, 90 epochs of batches of 4,096,
               features normalized over the batch.  With finetune: the fine-tuning of ADDP-B's code, 100 epochs of
               batches of 1,024, RandAugment, random erasing, mixup, CutMix, stochastic depth, learning rates that fall
               with depth.  The paper gives 83.9 % top-1.
  large        with imagenet256: the same for size L.  The paper gives 85.9 % after fine-tuning.
  tiny         for tests

Neither recipe has been run here.  They differ from the published code in this:

- MAGE's probe is of MAGE's encoder, which reads tokens (74.7 % top-1 for size B); here it is of ADDP's, which reads
  pixels.  It cuts crops that are too large off at the border of the image, where here they are drawn again; its images
  for evaluation are the middle of larger ones (256 of 292 pixels), here whole centre squares; its batch norm sees the
  part of the batch that lies on a device, here all of it.
- ADDP's code drops two layer norms of the trained encoder when it begins to fine-tune, after the embedding and after
  the last block; here they stay.  Inputs are clipped to the range of pixels, the noise of random erasing with them.
- Mixtures are drawn once per pair of images (`data.mixing.group`); the published code draws once per device.
"""

from ml_collections import ConfigDict

from vistok.configs.base import tokenizer, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = tokenizer.base()
    for block in ('objective', 'judges'):
        del config[block]
    del config.optimizer['discriminator_rate']
    config.model = ConfigDict(
        {
            'name': 'recognizer',
            'linear': True,  # the encoder is frozen
            'dropout': 0.0,  # in the encoder, when it is trained
            'drop_path': 0.0,  # likewise: share of samples that the last block leaves out, earlier ones fewer
            'batch_norm': False,  # of the features
            'label_smoothing': 0.0,
        }
    )
    config.encoder = 'runs/addp'  # a run of configs/addp.py
    # Filled when the run begins: the sizes of the encoder, and the classes.
    config.encoder_model, config.class_names = ConfigDict(), ()
    config.optimizer.update(learning_rate=1e-2, schedule='cosine', warmup_steps=20)
    config.optimizer.update(
        method='adam',  # or 'lars', with momentum b1
        layer_decay=1.0,  # of the learning rate, from each block to the one below it, when the encoder is trained
    )
    config.data.update(source='embedded:digits', image_size=32, augmentation='resize_crop', flip=False, threads=2)
    config.data.update(
        least_area=0.2,  # 'random_resized_crop': the smallest share of an image
        rand_augment=0.0,  # magnitude of RandAugment, at most 10; 0: none
        erasing=0.0,  # share of images with a rectangle of noise
        mixing={
            'mixup': 0.0,  # parameter of the beta distribution; 0: no mixup
            'cutmix': 0.0,  # likewise
            'switch': 0.5,  # share of CutMix where there are both
            'group': 2,  # images that are mixed alike
        },
    )
    config.train.update(steps=400, batch_size=64, log_every=50, checkpoint_every=200)
    config.evaluate = ConfigDict({'every': 200, 'image_size': 0, 'batch_size': 120, 'best_metric': 'loss'})
    return variants.merge(
        config,
        variant,
        data={'imagenet256': _imagenet256},
        training={'finetune': _finetune},
        regularization={'plain': _plain},
        size={'large': _large, 'tiny': _tiny},
    )


def _imagenet256(config: ConfigDict) -> None:
    """Selects ImageNet and the linear probe of MAGE (main_linprobe.py): a rate of 0.1 for 256 images."""
    recipe = tokenizer.base()
    config.data.update(recipe.data, augmentation='random_resized_crop')
    config.train.update(recipe.train)
    config.model.batch_norm = True
    config.optimizer.update(method='lars', learning_rate=0.1 * 4096 / 256, clip_norm=0.0)
    _set_length(config, epochs=90, warmup_epochs=10, batch_size=4096)


def _finetune(config: ConfigDict) -> None:
    config.model.update(linear=False, label_smoothing=0.1)
    config.optimizer.update(learning_rate=5e-4, weight_decay=0.05, b2=0.999)
    if config.data.image_size == 256:
        _published_finetune(config)


def _published_finetune(config: ConfigDict) -> None:
    """Selects ADDP-B's fine-tuning (finetune_addp_base_100ep.sh): a rate of 1e-3 for 256 images, from 0 to 1e-6."""
    rate = 1e-3 * 1024 / 256
    config.model.update(batch_norm=False, drop_path=0.1)
    config.optimizer.update(
        method='adam', learning_rate=rate, final_fraction=1e-6 / rate, decayed='kernels', layer_decay=0.65
    )
    config.data.update(least_area=0.08, rand_augment=9.0, erasing=0.25)
    config.data.mixing.update(mixup=0.8, cutmix=1.0)
    _set_length(config, epochs=100, warmup_epochs=20, batch_size=1024)


def _plain(config: ConfigDict) -> None:
    config.model.update(label_smoothing=0.0, drop_path=0.0)
    config.optimizer.weight_decay = 0.0
    config.data.update(augmentation='centre_crop', rand_augment=0.0, erasing=0.0)
    config.data.mixing.update(mixup=0.0, cutmix=0.0)


def _large(config: ConfigDict) -> None:
    if config.data.image_size != 256:
        raise ValueError('large goes with imagenet256')
    config.optimizer.learning_rate /= 2 if config.model.linear else 4
    if not config.model.linear:
        config.model.drop_path *= 2
        config.optimizer.update(layer_decay=0.8, final_fraction=1e-6 / config.optimizer.learning_rate)
        _set_length(config, epochs=50, warmup_epochs=5, batch_size=1024)


def _set_length(config: ConfigDict, epochs: int, warmup_epochs: int, batch_size: int) -> None:
    epoch = 1_281_167 // batch_size
    config.optimizer.warmup_steps = warmup_epochs * epoch
    config.train.update(steps=epochs * epoch, batch_size=batch_size)
    config.evaluate.update(every=10 * epoch, batch_size=256)


def _tiny(config: ConfigDict) -> None:
    config.optimizer.warmup_steps = 0
    config.train.update(steps=2, batch_size=8, log_every=1, checkpoint_every=1)
    config.evaluate.update(every=2, batch_size=4)
