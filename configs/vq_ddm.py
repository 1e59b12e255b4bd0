"""VQ-DDM (Hu et al. 2022, "Global Context with Discrete Diffusion in Vector Quantised Modelling for Image Generation").

    python launch/train.py --config=configs/vqgan.py:digits
    python launch/extract_tokens.py --model=runs/vqgan-digits
    python launch/train.py --config=configs/vq_ddm.py
    python launch/sample.py --model=runs/vq_ddm --out=digits.png
    python launch/inpaint.py --model=runs/vq_ddm --out=completed.png

goes from handwritten digits that ship inside installed packages to generated and to completed ones, on two CPU cores.
The third command took five and a half minutes on one core: 4.82 bits per token on unseen digits, of 8 without a model.
Variants, joined by commas:

  cifar10      tokens of CIFAR-10, of a tokenizer trained by configs/vqgan.py:cifar10
  celebahq256  the paper's network on faces of 256x256 pixels: 16x16 tokens of 1024 codewords, 4000 noise steps, 117.6
               million parameters; tokens of the rebuilt codebook, batch 1,800, 480,000 steps (celeba_resample.yaml)
  celebahq256_small_batch  the authors' other recipe for it: batch 250, 350,000 steps (celeba_reddp.yaml)
  celebahq256_original     tokens of the codebook before it was rebuilt: batch 200, 1.2 million steps (celeba.yaml)
  church256    the same network on LSUN churches, batch 180 (LSUN.yaml)
  imagenet256  the same with the classes of ImageNet; without masks, tokens enter as numbers (IN.yaml).  Differs: one of
               ten labels is hidden, so that sampling can be guided; the authors hide none.
  masks        noise that masks tokens instead of redrawing them (Austin et al. 2021)
  mixed        noise that does both (Gu et al. 2022)
  transformer  a transformer in place of the U-Net
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import generator, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = generator.base()
    config.model = ConfigDict(
        {
            'name': 'vq_ddm',
            'denoiser': 'unet',  # or 'transformer'
            'token_input': 'vector',  # or 'number': the id itself, divided by the largest
            'channels': 48,
            'channel_multipliers': (1, 2),  # U-Net: of the levels, from fine to coarse
            'official': False,  # U-Net: as in the official code, with its shortcomings
            'layers': 4,  # transformer
            'heads': 4,  # transformer
            'dropout': 0.1,
            'condition_dropout': 0.1,
            'timesteps': 200,
            'schedule': 'cos',  # 'cos', 'cos2' or 'linear'
            'mask_share': 0.0,  # 0: noise redraws tokens; 1: it masks them; between: it does both
            'prediction': 'x0',  # 'x0', 'mixture' or 'direct'
            'importance': True,
            'auxiliary_weight': 0.01,  # of the cross-entropy of clean tokens; the paper has none
            'evaluation_terms': 20,
            'dtype': 'float32',
            'remat': False,
        }
    )
    generator.digits(config)
    config.train.batch_size = 64
    config.sample.steps = 50  # jumps through the noise; 0: step by step
    return variants.merge(
        config,
        variant,
        noise={'masks': _masks, 'mixed': _masks_and_replacements},
        data={
            'cifar10': _cifar10,
            'celebahq256': _celebahq256,
            'celebahq256_small_batch': _celebahq256_small_batch,
            'celebahq256_original': _celebahq256_original,
            'church256': _church256,
            'imagenet256': _imagenet256,
        },
        denoiser={'transformer': _transformer},
        size={'tiny': _tiny},
    )


def _cifar10(config: ConfigDict) -> None:
    config.data.source = 'tokens:runs/vqgan-cifar10/tokens'
    config.model.update(channels=96, timesteps=1000)
    config.train.update(steps=20_000, batch_size=128, log_every=100, checkpoint_every=2_000, ema_decay=0.999)
    config.evaluate.update(every=5_000, batch_size=500)
    config.sample.update(steps=100, guidance_scale=1.0)


def _paper(config: ConfigDict, source: str, batch_size: int, learning_rate: float, steps: int) -> None:
    generator.full_recipe(config)
    config.model.update(
        channels=128,
        channel_multipliers=(1, 2, 4, 8),
        official=True,
        layers=24,
        heads=16,
        dropout=0.0,
        timesteps=4000,
        auxiliary_weight=0.0,
        evaluation_terms=16,
        dtype='bfloat16',
    )
    config.optimizer.update(learning_rate=learning_rate, schedule='cosine', b2=0.999, weight_decay=0.0, clip_norm=0.0)
    config.data.source = f'tokens:runs/tokens-{source}'
    config.train.update(steps=steps, batch_size=batch_size)
    config.sample.steps = 0


def _celebahq256(config: ConfigDict) -> None:
    _paper(config, 'celebahq256', 1800, 1e-4, 480_000)


def _celebahq256_small_batch(config: ConfigDict) -> None:
    _paper(config, 'celebahq256', 250, 1e-4, 350_000)


def _celebahq256_original(config: ConfigDict) -> None:
    _paper(config, 'celebahq256-original', 200, 5e-5, 1_200_000)


def _church256(config: ConfigDict) -> None:
    _paper(config, 'church256', 180, 1e-4, 500_000)


def _imagenet256(config: ConfigDict) -> None:
    _paper(config, 'imagenet256', 180, 1e-4, 570_000)
    if not config.model.mask_share:
        config.model.token_input = 'number'


def _masks(config: ConfigDict) -> None:
    config.model.update(mask_share=1.0, schedule='linear')


def _masks_and_replacements(config: ConfigDict) -> None:
    config.model.update(mask_share=0.9, schedule='linear')


def _transformer(config: ConfigDict) -> None:
    config.model.update(
        denoiser='transformer', token_input='vector', channels=128 if config.model.channels < 128 else 1024
    )


def _tiny(config: ConfigDict) -> None:
    generator.tiny(config)
    config.model.update(channels=8, layers=1, heads=2, timesteps=8, evaluation_terms=2)
    config.sample.steps = 2
