"""Weight conversion of the two discriminators (LlamaGen's files; taming's PatchGAN has the same names)."""

from vistok.weights.rules import CONV, LINEAR, Rule

PATCHGAN_IGNORED = ('*.num_batches_tracked',)
STYLEGAN_IGNORED = ('*.downsample.0.f',)  # the fixed blur kernel

_MOST_BLOCKS = 8  # 1024 pixels


def patchgan_rules(layers: int = 3) -> tuple[Rule, ...]:
    """Returns the rules of `PatchGAN(layers=layers)`; its official layers, activations too, are numbered in one row."""
    last = 3 * layers + 2
    rules = [
        Rule('main.0.weight', 'params/conv_in/kernel', CONV),
        Rule('main.0.bias', 'params/conv_in/bias'),
        Rule(f'main.{last}.weight', 'params/conv_out/kernel', CONV),
        Rule(f'main.{last}.bias', 'params/conv_out/bias'),
    ]
    for i in range(1, layers + 1):
        rules += [
            Rule(f'main.{3 * i - 1}.weight', f'params/conv_{i}/kernel', CONV),
            Rule(f'main.{3 * i}.weight', f'params/norm_{i}/scale'),
            Rule(f'main.{3 * i}.bias', f'params/norm_{i}/bias'),
            Rule(f'main.{3 * i}.running_mean', f'batch_stats/norm_{i}/mean'),
            Rule(f'main.{3 * i}.running_var', f'batch_stats/norm_{i}/var'),
        ]
    return tuple(rules)


def stylegan_rules() -> tuple[Rule, ...]:
    """Returns the rules of `StyleGANDiscriminator` of any size; official blocks are counted from 2."""
    layers = {
        'blocks.0': ('conv_in', CONV),
        'final_conv.0': ('conv_out', CONV),
        'final_linear.0': ('dense1', LINEAR),
        'final_linear.2': ('dense2', LINEAR),
    }
    for i in range(_MOST_BLOCKS):
        layers |= {
            f'blocks.{i + 2}.conv_res': (f'block_{i}/shortcut', CONV),
            f'blocks.{i + 2}.net.0': (f'block_{i}/conv1', CONV),
            f'blocks.{i + 2}.net.2': (f'block_{i}/conv2', CONV),
            f'blocks.{i + 2}.downsample.1': (f'block_{i}/conv_down', CONV),
        }
    rules = []
    for official, (ours, layout) in layers.items():
        rules += [
            Rule(f'{official}.weight', f'params/{ours}/kernel', layout),
            Rule(f'{official}.bias', f'params/{ours}/bias'),
        ]
    return tuple(rules)
