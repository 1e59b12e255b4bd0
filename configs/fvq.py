"""FVQ (Chang et al. 2025, "Scalable Training for Vector-Quantized Networks with 100% Codebook Utilization").

    python launch/train.py --config=configs/fvq.py

trains in minutes on two CPU cores, on photographs that ship inside installed packages.  Variants, joined
by commas:

  rq           four codewords per position, which add up (residual quantization)
  var          a grid of codewords per scale, which add up (as VAR's tokenizer)
  dit          the bridge of the published training scripts: positions, and norms modulated by a learned vector
  vit          the bridge of the paper (the default)
  cifar10      CIFAR-10 at 32x32, 2,000 steps; --config.data.source names a folder or zip instead of TFDS
  imagenet256  the paper's recipe: 256x256, VQ-16 size, batch 128, 400,000 steps, LPIPS, learning annealing, 16,384
               codewords.  The paper claims that all codewords are used; not reproduced here.
  k65536       with imagenet256: 65,536 codewords
  k262144      with imagenet256: 262,144 codewords
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import tokenizer, variants


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = tokenizer.base()
    config.model = ConfigDict(
        {
            'name': 'fvq',
            'codebook_size': 1024,
            'codebook_dim': 32,
            **tokenizer.SMALL_NETWORK,
            'bridge_patch': 4,
            'bridge_width': 64,
            'bridge_depth': 2,
            'bridge_heads': 4,
            'bridge_positions': False,
            'bridge_conditioned': False,
            'commitment_weight': 0.25,
            'codebook_weight': 1.0,
            'entropy_weight': 0.0,
            'entropy_temperature': 0.01,
            'dtype': 'float32',
            'remat': False,
        }
    )
    tokenizer.photographs(config)
    config.optimizer.update(schedule='annealing', initial_fraction=0.005, final_fraction=0.01)
    return variants.merge(
        config,
        variant,
        quantizer={'rq': _rq, 'var': _var},
        bridge={'vit': _vit, 'dit': _dit},
        data={'cifar10': tokenizer.cifar10, 'imagenet256': _imagenet256},
        size={'k65536': _k65536, 'k262144': _k262144, 'tiny': _tiny},
    )


def _rq(config: ConfigDict) -> None:
    config.model.update(name='fvq_rq', depth=4)


def _var(config: ConfigDict) -> None:
    config.model.update(name='fvq_var', scales=(1, 2, 4, 6, 8, 12, 16))


def _vit(config: ConfigDict) -> None:
    config.model.update(bridge_positions=False, bridge_conditioned=False)


def _dit(config: ConfigDict) -> None:
    config.model.update(bridge_positions=True, bridge_conditioned=True)


def _imagenet256(config: ConfigDict) -> None:
    tokenizer.full_recipe(config)
    config.model.update(
        codebook_size=16_384,
        codebook_dim=256,
        **tokenizer.VQ16_NETWORK,
        bridge_width=256,
        dtype='bfloat16',
    )
    if config.model.name == 'fvq_var':
        config.model.update(codebook_size=4096, codebook_dim=32, scales=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    config.optimizer.update(schedule='annealing', warmup_steps=40_000, initial_fraction=0.005, final_fraction=0.01)


def _k65536(config: ConfigDict) -> None:
    config.model.update(codebook_size=65_536, bridge_patch=8)


def _k262144(config: ConfigDict) -> None:
    config.model.update(codebook_size=262_144, bridge_patch=8, remat=True)


def _tiny(config: ConfigDict) -> None:
    tokenizer.tiny(config)
    config.model.update(
        codebook_size=32,
        codebook_dim=8,
        **tokenizer.TINY_NETWORK,
        bridge_patch=2,
        bridge_width=16,
        bridge_depth=1,
        bridge_heads=2,
    )
    if config.model.name == 'fvq_var':
        config.model.scales = (1, 3, 8)
