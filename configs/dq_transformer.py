"""DQ-Transformer (Huang et al. 2023, "Towards Accurate Image Coding"): where the next code lies, then what it is.

    python launch/train.py --config=configs/dq_vae.py:digits
    python launch/extract_tokens.py --model=runs/dq_vae-digits --zooms=1.1,1
    python launch/train.py --config=configs/dq_transformer.py
    python launch/sample.py --model=runs/dq_transformer --out=digits.png

goes from embedded digits, whose strokes get four codes where the background gets one, to generated ones, on two CPU
cores.  Half of the views are not enlarged: cells are as large as the pixels of a digit, and have other tokens between
them.  Variants, joined by commas:

  remaining    samples the positions of coarse codes only; fine codes are then drawn for all that remains
  imagenet256  6 and 18 blocks of width 1024 over 16x16 cells, batch 240, 100 epochs, by the authors' code: random crops
               are encoded in every step.  Differs: padding is at the end of a sequence (`layout`), not between its
               parts.  They give FID 5.11 for a larger model; not reproduced here.
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import generator, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = generator.base()
    config.model = ConfigDict(
        {
            'name': 'dq_transformer',
            'position_layers': 1,
            'content_layers': 3,
            'heads': 4,
            'width': 96,
            'dropout': 0.1,
            'attention_dropout': 0.0,  # of attention weights
            'condition_dropout': 0.1,
            'order': 'row',  # or 'region': one coarsest cell after the other
            'layout': 'compact',  # or 'official'
            'finest_positions': 'drawn',  # in sampling; or 'remaining'
            'position_weight': 1.0,
            'dtype': 'float32',
            'remat': False,
        }
    )
    generator.digits(config)
    config.data.source = 'tokens:runs/dq_vae-digits/tokens'
    config.train.update(batch_size=64, steps=1_000)  # sequences are up to 68 pairs long
    return variants.merge(
        config,
        variant,
        sampling={'remaining': _remaining},
        data={'imagenet256': _imagenet256},
        size={'tiny': _tiny},
    )


def _remaining(config: ConfigDict) -> None:
    config.model.finest_positions = 'remaining'


def _imagenet256(config: ConfigDict) -> None:
    generator.full_recipe(config)
    config.model.update(position_layers=6, content_layers=18, heads=8, width=1024, dtype='bfloat16', remat=True)
    config.model.update(condition_dropout=0.0, attention_dropout=0.1)
    config.optimizer.update(learning_rate=5e-4, schedule='cosine', weight_decay=0.01, decayed='kernels', clip_norm=0.0)
    config.tokenizer = 'runs/dq_vae-imagenet256'
    config.data.update(source='tfds:imagenet2012', augmentation='shorter_side_crop')
    config.train.update(batch_size=240, steps=100 * 5_338)
    config.sample.update(top_k=300, guidance_scale=1.0)


def _tiny(config: ConfigDict) -> None:
    generator.tiny(config)
    config.model.update(position_layers=1, content_layers=1, heads=2, width=16)
