"""LlamaGen (Sun et al. 2024, "Autoregressive Model Beats Diffusion"): a Llama that predicts one token after the other.

    python launch/train.py --config=configs/vqgan.py:digits
    python launch/extract_tokens.py --model=runs/vqgan-digits
    python launch/train.py --config=configs/llamagen.py
    python launch/sample.py --model=runs/llamagen --out=digits.png

goes from handwritten digits that ship inside installed packages to generated ones, on two CPU cores.  Variants, joined
by commas:

  imagenet256  size B by the paper's recipe: 16x16 tokens of VQ-16, batch 256, 300 epochs.  The paper gives FID 5.46
               with guidance 2.0; not reproduced here.
  imagenet384  24x24 tokens.  The paper gives FID 6.09 with guidance 2.25; not reproduced here.
  b, l, xl, xxl, 3b  with one of these: the published sizes, with the batch and the rate that their authors used
  text         captions instead of classes (launch/text_features.py), at the size for two CPU cores
  text256      captions, size XL, at 256x256 pixels: the settings of the paper's first stage on text (50 million pairs
               there; its code has no number of steps)
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import generator, variants

# The published sizes.
SIZES = {
    'b': {'layers': 12, 'heads': 12, 'width': 768},
    'l': {'layers': 24, 'heads': 16, 'width': 1024},
    'xl': {'layers': 36, 'heads': 20, 'width': 1280},
    'xxl': {'layers': 48, 'heads': 24, 'width': 1536},
    '3b': {'layers': 24, 'heads': 32, 'width': 3200},
}
# Guidance with which each was evaluated, at 256 and at 384 pixels.
GUIDANCE = {'b': (2.0, 2.25), 'l': (1.75, 2.0), 'xl': (1.75, 1.75), 'xxl': (1.75, 1.75), '3b': (1.5, 1.65)}


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = generator.base()
    config.model = ConfigDict(
        {
            'name': 'llamagen',
            'layers': 4,
            'heads': 4,
            'width': 128,
            'dropout': 0.1,
            'condition_dropout': 0.1,
            'label_smoothing': 0.0,
            'cond_rope': 'identity',  # 'zero', as the published models have it, hides the class from attention
            'output_vectors': 0,  # of the head, for large vocabularies: ids share them; 0: one for each id
            'dtype': 'float32',
            'cache_dtype': '',  # of keys and values in sampling: '' is dtype, or 'int8', 'bfloat16'
            'remat': False,
        }
    )
    generator.digits(config)
    config.train.steps = 1_000  # later the unseen digits get no likelier
    config.data.text_features = ''  # of captions (launch/text_features.py), for the variants on text
    return variants.merge(
        config,
        variant,
        data={'imagenet256': _imagenet256, 'imagenet384': _imagenet384, 'text': _text, 'text256': _text256},
        size={**{name: _size(name) for name in SIZES}, 'tiny': _tiny},
    )


def _imagenet256(config: ConfigDict) -> None:
    generator.full_recipe(config)
    config.model.update(**SIZES['b'], cond_rope='zero', dtype='bfloat16')
    config.sample.guidance_scale = GUIDANCE['b'][0]


def _imagenet384(config: ConfigDict) -> None:
    _imagenet256(config)
    config.data.update(source='tokens:runs/tokens-imagenet384', image_size=384)
    config.sample.guidance_scale = GUIDANCE['b'][1]


def _text(config: ConfigDict) -> None:
    config.model.update(text_tokens=120, text_width=2048)  # of Flan-T5-XL
    config.data.update(source='tokens:runs/tokens-text', text_features='runs/tokens-text/text')


def _text256(config: ConfigDict) -> None:
    _imagenet256(config)
    _text(config)
    config.model.update(SIZES['xl'])
    config.sample.update(guidance_scale=7.5, top_k=1000)


def _size(name: str) -> variants.Variant:
    def variant(config: ConfigDict) -> None:
        config.model.update(**SIZES[name], remat=name in ('xxl', '3b'))
        if config.data.text_features:
            return  # the rates and the guidance below are of models with classes
        config.sample.guidance_scale = GUIDANCE[name][config.data.image_size == 384]
        if name in ('xl', 'xxl', '3b'):
            config.optimizer.learning_rate = 2e-4
        if name in ('xxl', '3b'):
            config.train.update(batch_size=512, steps=config.train.steps // 2)

    return variant


def _tiny(config: ConfigDict) -> None:
    generator.tiny(config)
    config.model.update(layers=1, heads=2, width=16)
