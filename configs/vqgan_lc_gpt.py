"""VQGAN-LC's GPT (Zhu et al. 2024, "Scaling the Codebook Size of VQGAN to 100,000 with a Utilization Rate of 99%").

    python launch/train.py --config=configs/vqgan.py:digits
    python launch/extract_tokens.py --model=runs/vqgan-digits
    python launch/train.py --config=configs/vqgan_lc_gpt.py
    python launch/sample.py --model=runs/vqgan_lc_gpt --out=digits.png

goes from embedded digits to generated ones, on two CPU cores, with a null class for guidance, which the paper does not
have.  It takes tokens of any tokenizer with one id per position, VQGAN-LC's among them.  Variants, joined by commas:

  imagenet256  the paper's recipe: 24 blocks of width 1024 over 16x16 tokens of 100,000 codewords, batch 1,024, 100
               epochs, no guidance; the tokens are of centre crops (extract_tokens --views=centre --zooms=1).  Of the
               authors' two schedules one is held to step 80,000 and falls until 450,000, beyond the end at 125,100;
               here the rate falls along a cosine from the warm-up on.  The paper gives FID 15.4 (against the training
               folder); not reproduced here.
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import generator, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = generator.base()
    config.model = ConfigDict(
        {
            'name': 'vqgan_lc_gpt',
            'layers': 4,
            'heads': 4,
            'width': 128,
            'dropout': 0.1,
            'condition_dropout': 0.1,
            'replaced': 0.2,  # share of the ids that the network is told wrongly in training
            'dtype': 'float32',
            'cache_dtype': '',  # of keys and values in sampling: '' is dtype, or 'int8', 'bfloat16'
            'remat': False,
        }
    )
    generator.digits(config)
    config.train.steps = 1_000
    return variants.merge(
        config,
        variant,
        data={'imagenet256': _imagenet256},
        size={'tiny': _tiny},
    )


def _imagenet256(config: ConfigDict) -> None:
    generator.full_recipe(config)
    config.model.update(layers=24, heads=16, width=1024, dropout=0.0, condition_dropout=0.0, dtype='bfloat16')
    config.optimizer.update(
        learning_rate=4.5e-4, schedule='cosine', warmup_steps=5_000, final_fraction=1e-5 / 4.5e-4, weight_decay=0.01
    )
    config.optimizer.update(decayed='all', clip_norm=0.0)
    config.train.update(batch_size=1024, steps=125_100)


def _tiny(config: ConfigDict) -> None:
    generator.tiny(config)
    config.model.update(layers=1, heads=2, width=16)
