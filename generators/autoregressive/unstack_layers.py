"""Weight layout for fast decoding on a CPU: unstacked layers and transposed matrices.

A decoding step is bound by reading the weights.  From a stack of layers a CPU copies a layer's matrices before it
multiplies, and a product with one vector is fastest along the rows of a matrix, hence one row for each output.
"""

import flax.traverse_util

from vistok.generators.generator import Variables

STACK = 'layers'


def unstack_layers(variables: Variables) -> Variables:
    """Unstacks `layers` into `layers_0`, `layers_1`, ..., and transposes matrices `kernel` into `rows` (idempotent).

    `Linear` and `CausalTransformer` accept both forms.
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
