"""FAR (Bai et al. 2024, "Factorized Visual Tokenization and Generation"): generation with factorized tokens.

    python launch/train.py --config=configs/fqgan.py:digits
    python launch/extract_tokens.py --model=runs/fqgan-digits
    python launch/train.py --config=configs/far.py
    python launch/sample.py --model=runs/far --out=digits.png

generates handwritten digits, on two CPU cores.  Variants, joined by commas:

  imagenet256  size B by the paper's recipe: 16x16 tokens of FQGAN dual, batch 256, 300 epochs.  The paper
               gives FID 3.38; not reproduced here.
  l            with it: size L.  The paper gives FID 3.08.
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import generator, variants

SIZES = {
    'b': {'layers': 24, 'heads': 16, 'width': 1024, 'head_layers': 3},
    'l': {'layers': 36, 'heads': 20, 'width': 1280, 'head_layers': 4},
}


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = generator.base()
    config.model = ConfigDict(
        {
            'name': 'far',
            'layers': 3,
            'heads': 4,
            'width': 128,
            'head_layers': 1,
            'dropout': 0.1,
            'condition_dropout': 0.1,
            'label_smoothing': 0.0,
            'cond_rope': 'identity',  # 'zero', as the published models have it, hides the class from attention
            'dtype': 'float32',
            'cache_dtype': '',  # of keys and values in sampling: '' is dtype, or 'int8', 'bfloat16'
            'remat': False,
        }
    )
    generator.digits(config)
    config.data.source = 'tokens:runs/fqgan-digits/tokens'
    return variants.merge(
        config,
        variant,
        data={'imagenet256': _imagenet256},
        size={'l': _l, 'tiny': _tiny},
    )


def _imagenet256(config: ConfigDict) -> None:
    generator.full_recipe(config)
    config.model.update(**SIZES['b'], cond_rope='zero', dtype='bfloat16')
    config.sample.guidance_scale = 2.0


def _l(config: ConfigDict) -> None:
    config.model.update(**SIZES['l'])


def _tiny(config: ConfigDict) -> None:
    generator.tiny(config)
    config.model.update(layers=1, heads=2, width=16)
