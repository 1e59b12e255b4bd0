"""Linear probing and fine-tuning of ADDP's encoder as an image classifier.

    python launch/train.py --config=configs/addp_probe.py

needs a run of configs/addp.py (`--config.encoder=runs/addp`) and reports the accuracy on unseen images, by default on
the digits that ship inside installed packages.  Variants, joined by commas:

  finetune     the encoder is trained as well
  plain        whole images instead of random crops, no weight decay, no smoothing of labels: the features alone;
               after finetune, fine-tuning without regularisers
  imagenet256  ImageNet at 256x256, for size B.  The paper gives 83.9 % top-1 after fine-tuning, with mixtures of
               images, random erasing, stochastic depth and rates that fall with depth, which are not here.
  tiny         for tests
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
            'label_smoothing': 0.0,
        }
    )
    config.encoder = 'runs/addp'  # a run of configs/addp.py
    # Filled when the run begins: the sizes of the encoder, and the classes.
    config.encoder_model, config.class_names = ConfigDict(), ()
    config.optimizer.update(learning_rate=1e-2, schedule='cosine', warmup_steps=20)
    config.data.update(source='embedded:digits', image_size=32, augmentation='resize_crop', flip=False, threads=2)
    config.train.update(steps=400, batch_size=64, log_every=50, checkpoint_every=200)
    config.evaluate = ConfigDict({'every': 200, 'image_size': 0, 'batch_size': 120, 'best_metric': 'loss'})
    return variants.merge(
        config,
        variant,
        training={'finetune': _finetune},
        data={'imagenet256': _imagenet256},
        regularization={'plain': _plain},
        size={'tiny': _tiny},
    )


def _finetune(config: ConfigDict) -> None:
    config.model.update(linear=False, label_smoothing=0.1)
    config.optimizer.update(learning_rate=5e-4, weight_decay=0.05, b2=0.999)


def _plain(config: ConfigDict) -> None:
    config.model.label_smoothing = 0.0
    config.optimizer.weight_decay = 0.0
    config.data.augmentation = 'centre_crop'


def _imagenet256(config: ConfigDict) -> None:
    recipe = tokenizer.base()
    config.data.update(recipe.data)
    epoch = 1_281_167 // 1024
    config.optimizer.warmup_steps = 20 * epoch
    config.train.update(recipe.train)
    config.train.update(steps=100 * epoch, batch_size=1024)
    config.evaluate.update(every=10 * epoch, batch_size=256)


def _tiny(config: ConfigDict) -> None:
    config.optimizer.warmup_steps = 0
    config.train.update(steps=2, batch_size=8, log_every=1, checkpoint_every=1)
    config.evaluate.update(every=2, batch_size=4)
