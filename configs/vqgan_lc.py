"""VQGAN-LC (Zhu et al. 2024, "Scaling the Codebook Size of VQGAN to 100,000 with a Utilization Rate of 99%").

    python launch/train.py --config=configs/vqgan_lc.py

trains in minutes on two CPU cores, on photographs that ship inside installed packages.  The table of the default is
made when the run starts, by the method of the paper with the stand-in network in the place of CLIP: its patch features
of training views, clustered.  `config.table` names another: '' is Gaussian, anything else a file that
launch/build_codebook.py wrote, or the published `codebook-100K.pth`.  Variants, joined by commas:

  gaussian     a Gaussian table instead of features
  mlp          an MLP as projector instead of a linear map
  none         no projector: the rows of a table as wide as the codewords are the codewords (the paper's baselines)
  tuned        the table is trained as well
  cifar10      CIFAR-10 at 32x32, 2,000 steps; --config.data.source names a folder or zip instead of TFDS
  imagenet256  the paper's recipe at f16: 100,000 codewords of CLIP ViT-L/14 features in the file `config.table` names,
               256x256, batch 256, 20 epochs, LPIPS.  The paper gives rFID 2.62, usage 99.9 %; not reproduced here.
  f8           with imagenet256: 32x32 tokens per image, codewords of 4 numbers; the paper gives rFID 1.29
  tiny         for tests
"""

from ml_collections import ConfigDict

from vistok.configs.base import tokenizer, variants

_STEPS_PER_EPOCH = 1_281_167 // 256  # ImageNet


def get_config(variant: str = '') -> ConfigDict:
    """Returns the default variant, changed by the named ones."""
    config = tokenizer.base()
    config.model = ConfigDict(
        {
            'name': 'vqgan_lc',
            'codebook_size': 512,
            'codebook_dim': 8,
            'table_width': 80,  # of the stand-in's features
            'table_trained': False,
            'projector': 'linear',  # 'linear', 'mlp' or 'none'
            'normalize': False,
            **tokenizer.SMALL_NETWORK,
            'commitment_weight': 0.1,
            'codebook_weight': 0.033,
            'entropy_weight': 0.0,
            'entropy_temperature': 0.01,
            'dtype': 'float32',
            'remat': False,
        }
    )
    config.table = 'stand_in'  # what a run's table starts from: 'stand_in', '' (Gaussian), or a file
    tokenizer.photographs(config)
    return variants.merge(
        config,
        variant,
        data={'cifar10': tokenizer.cifar10, 'imagenet256': _imagenet256},
        size={'f8': _f8, 'tiny': _tiny},
        table={'gaussian': _gaussian},
        training={'tuned': _train_table},
        projector={'mlp': _mlp, 'none': _none},
    )


def _gaussian(config: ConfigDict) -> None:
    config.table = ''


def _mlp(config: ConfigDict) -> None:
    config.model.projector = 'mlp'


def _none(config: ConfigDict) -> None:
    config.model.update(projector='none', table_width=config.model.codebook_dim)
    config.table = ''


def _train_table(config: ConfigDict) -> None:
    config.model.table_trained = True


def _imagenet256(config: ConfigDict) -> None:
    tokenizer.full_recipe(config)
    config.model.update(codebook_size=100_000, table_width=768, **tokenizer.VQ16_NETWORK, dtype='bfloat16')
    config.table = 'codebook-100K.safetensors'
    config.objective.update(
        pixel_loss='l1',
        discriminator_layers=2,
        adversarial_weight=0.1,
        adaptive_weight=True,
        discriminator_weight=1.0,
        discriminator_start=50_000,
        discriminator_pass='fresh',
    )
    config.optimizer.update(
        learning_rate=5e-4,
        schedule='cosine',
        warmup_steps=5 * _STEPS_PER_EPOCH,
        b1=0.5,
        b2=0.9,
        eps=1e-7,
        clip_norm=0.0,
    )
    config.data.update(augmentation='shorter_side_crop', flip=False)
    config.train.update(batch_size=256, steps=20 * _STEPS_PER_EPOCH)


def _f8(config: ConfigDict) -> None:
    config.model.update(codebook_dim=4, channel_multipliers=(1, 2, 2, 4), attention_levels=())


def _tiny(config: ConfigDict) -> None:
    tokenizer.tiny(config)
    config.model.update(codebook_size=32, **tokenizer.TINY_NETWORK)
