"""Base config of generators: every key with its meaning, at the values of the paper-sized recipe.

Not an experiment of its own.  What images, steps and devices are is told in `tokenizer.py`.
"""

from ml_collections import ConfigDict

from vistok.configs.base import tokenizer


def base() -> ConfigDict:
    """Returns LlamaGen's recipe for ImageNet classes at 256x256 pixels (Sun et al. 2024, section 3.2 and code)."""
    config = tokenizer.base()
    for block in ('objective', 'judges'):
        del config[block]
    del config.optimizer['discriminator_rate']
    config.update(
        {
            'model': {'name': ''},  # the rest are arguments of the generator's class
            'tokenizer': '',  # run folder or converted file; '' takes the one that lies beside extracted tokens
            'tokens': {},  # filled when the run begins: what the tokenizer's tokens are, and the classes
            'sample': {  # how ids are drawn, in the sheets of a run and, unless told otherwise, by launch/sample.py
                'temperature': 1.0,
                'top_k': 0,  # 0: all
                'top_p': 1.0,  # 1: all
                'guidance_scale': 1.0,  # 1: no guidance
                'guidance_schedule': 'constant',  # 'constant', 'interval' or 'power_cosine'
                'guidance_interval': 0,  # 'interval': positions with guidance
                'guidance_power': 1.0,  # 'power_cosine'
                'steps': 0,  # network calls of methods that refine all positions again and again; 0: the method's own
            },
        }
    )
    config.optimizer.update(learning_rate=1e-4, b1=0.9, b2=0.95, weight_decay=0.05, clip_norm=1.0)
    # 'tokens:DIR' are extracted ones (launch/extract_tokens.py), all else images, which are encoded in every step.
    config.data.source = 'tokens:runs/tokens-imagenet256'
    config.train.update(steps=300 * 5_000, batch_size=256)  # 300 epochs
    config.evaluate = ConfigDict(
        {
            'every': 25_000,
            'batch_size': 256,
            'classes': 10,  # rows of the sheet of samples
            'per_class': 8,  # its columns; 0: no sheet
            'best_metric': 'loss',  # decides which checkpoint is kept as the best
        }
    )
    return config


def full_recipe(config: ConfigDict) -> None:
    """Restores everything but the model as in `base`; undoes `digits`."""
    recipe = base()
    for block in ('optimizer', 'data', 'train', 'evaluate', 'sample'):
        config[block].update(recipe[block])


def digits(config: ConfigDict) -> None:
    """Selects the tokens of embedded digits, at a size for two CPU cores."""
    config.optimizer.update(learning_rate=1e-3, schedule='cosine', warmup_steps=50, final_fraction=0.05)
    config.data.update(source='tokens:runs/vqgan-digits/tokens', image_size=32, augmentation='centre_crop', flip=False)
    config.data.threads = 2
    config.train.update(steps=1_500, batch_size=128, log_every=100, checkpoint_every=500, ema_decay=0.99)
    config.evaluate.update(every=500, batch_size=120)
    config.sample.guidance_scale = 1.5


def tiny(config: ConfigDict) -> None:
    """Shrinks the run to seconds, for tests; on top of `digits`."""
    config.optimizer.warmup_steps = 0
    config.train.update(steps=2, batch_size=8, log_every=1, checkpoint_every=1)
    config.evaluate.update(every=2, batch_size=120, classes=2, per_class=4)
