"""Weights as a CPU reads them fastest when few rows pass at a time: each layer's on its own, a row for each output.

A step of sampling does little but read the weights.  Out of a stack of layers a CPU copies a layer's matrices before it
multiplies, and a product with one vector runs along the rows of a matrix, not down its columns.
"""

import flax.traverse_util

from vistok.generators.generator import Variables

STACK = 'layers'


def unstack_layers(variables: Variables) -> Variables:
    """Stacks `layers` as `layers_0`, `layers_1`, ...; matrices `kernel` as their transposes, `rows`.

    What is in that form already stays as it is.  `Linear` and `CausalTransformer` understand both.
    """
    found = {}
    for path, x in flax.traverse_util.flatten_dict(variables).items():
        turned = path[0] == 'params' and path[-1] == 'kernel'
        if turned:
            path, x = (*path[:-1], 'rows'), x.swapaxes(-1, -2)
        if STACK not in path:
            found[path] = x
            continue
        at = path.index(STACK)
        for i in range(x.shape[0]):
            found[*path[:at], f'{STACK}_{i}', *path[at + 1 :]] = x[i]
    return flax.traverse_util.unflatten_dict(found)
