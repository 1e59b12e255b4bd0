"""Time of a full training step of a tokenizer on one device, and of its parts.

    python benchmarks/train_step.py --image_size 256 --batch_size 32 --dtype bfloat16 --steps 20

The step is the one that training runs: VQGAN ('vq16') or FQGAN (dual) with pixel loss, LPIPS, PatchGAN, the teacher of
FQGAN, and both optimizers.  Frozen networks have random weights of the right shapes, images are noise: neither
changes the time.

Each part is then compiled and timed alone, forward and backward, on the shapes it has in the step.  The compiler fuses
across parts in the step and cannot do so here, so the parts need not add up to it.  Times are the fastest of `--steps`
calls after one that is not counted.  Memory is what the compiler plans: arguments, results that share no memory with
them, and temporaries.  FLOPs are the compiler's count, which is 0 where it sees none (calls into other libraries).

With PyTorch installed and `--model vqgan`, forward and backward of encoder, quantizer and decoder alone also run in
PyTorch (eager, both memory layouts), on equal shapes and without frozen networks, discriminator and optimizer.
"""

import argparse
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vistok.losses.adversarial import ADVERSARIAL_LOSSES
from vistok.pretrained.clip import CLIPVision, clip_l14
from vistok.pretrained.frozen_network import FrozenNetwork
from vistok.pretrained.lpips import LPIPS
from vistok.pretrained.stand_in import StandInPerceptual
from vistok.tokenizers.fqgan import FQGAN
from vistok.tokenizers.fqgan import PRESETS as FQGAN_PRESETS
from vistok.tokenizers.networks.patchgan import PatchGAN
from vistok.tokenizers.objective import AdversarialGame, TokenizerObjective
from vistok.tokenizers.vqgan import PRESETS as VQGAN_PRESETS
from vistok.tokenizers.vqgan import VQGAN
from vistok.training.optimizer import make_optimizer
from vistok.training.parallel import make_runner
from vistok.training.state import Batch, TrainState
from vistok.training.step import TrainStep
from vistok.training.throughput import model_flops_utilization

TINY = {'channels': 8, 'channel_multipliers': (1,), 'attention_levels': (), 'res_blocks': 1, 'codebook_size': 64}
TINY_FACTORS = {'adapter_layers': 1, 'head_layers': 1, 'adapter_heads': 2, 'head_heads': 2, 'teacher_widths': (0, 16)}


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Seconds of a call, with the FLOPs and memory that the compiler reports."""

    seconds: float
    flops: float = 0.0
    planned_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A function of the step and the arguments it has there."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def fastest(call: Callable[[], Any], steps: int) -> float:
    """Measures the seconds of the fastest of `steps` calls, after one uncounted; each waits for its result."""
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def planned_bytes(compiled: Any) -> int | None:
    if (memory := compiled.memory_analysis()) is None:
        return None
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes


def measure(part: Part, steps: int) -> StepCost:
    compiled = jax.jit(part.function).lower(*part.arguments).compile()
    seconds = fastest(lambda: jax.block_until_ready(compiled(*part.arguments)), steps)
    return StepCost(seconds, float((compiled.cost_analysis() or {}).get('flops', 0.0)), planned_bytes(compiled))


def with_gradient(name: str, function: Callable[[Any, Any], Any], wanted: Any, fixed: Any) -> Part:
    """Builds forward and backward of `function(wanted, fixed)`; no argument becomes a constant of the program."""
    cotangent = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), jax.eval_shape(function, wanted, fixed))

    def run(wanted: Any, fixed: Any, cotangent: Any) -> tuple[Any, Any]:
        result, pull_back = jax.vjp(lambda w: function(w, fixed), wanted)
        return result, pull_back(cotangent)

    return Part(name, run, (wanted, fixed, cotangent))


def noise(shapes: Any) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(-1, 1, s.shape), s.dtype), shapes)


def random_network(name: str, module: nn.Module, *images: jax.ShapeDtypeStruct) -> FrozenNetwork:
    return FrozenNetwork(name, module, module.lazy_init(jax.random.key(1, impl='unsafe_rbg'), *images))


def make_objective(args: argparse.Namespace, dtype: Any) -> TokenizerObjective:
    """Builds an objective with everything on: the adversarial game starts at once."""
    tiny = args.preset == 'tiny'
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    teachers = {}
    if args.model == 'vqgan':
        tokenizer: VQGAN | FQGAN = VQGAN(**VQGAN_PRESETS['vq16'] | (TINY if tiny else {}), dtype=dtype)
    else:
        sizes = FQGAN_PRESETS['dual'] | {'image_size': args.image_size} | (TINY | TINY_FACTORS if tiny else {})
        tokenizer = FQGAN(**sizes, dtype=dtype)
        small = CLIPVision(width=16, layers=1, num_heads=2, patch=8, image_size=16, dtype=dtype)
        teacher = random_network('clip', small if tiny else clip_l14(dtype=dtype), image)
        teachers = {sizes['teachers'][1]: teacher}
    perceptual = StandInPerceptual(dtype=dtype) if tiny else LPIPS(dtype=dtype)
    return TokenizerObjective(
        tokenizer,
        game=AdversarialGame(PatchGAN(*((8, 1) if tiny else ()), dtype=dtype), start=0),
        perceptual=random_network('stand-in' if tiny else 'LPIPS', perceptual, image, image),
        teachers=teachers,
    )


def step_parts(
    objective: TokenizerObjective, train_step: TrainStep, state: TrainState, images: jax.Array
) -> list[Part]:
    """Returns the parts of a step, in order."""
    tokenizer, frozen = objective.tokenizer, objective.frozen
    params = state.params['tokenizer']
    decoding = {name: params[name] for name in ('post_quant_conv', 'decoder')}
    quantizing = {'quantizer': params['quantizer']}
    predicting = {name: value for name, value in params.items() if name.startswith('predictor')}
    encoding = {n: value for n, value in params.items() if n not in {*decoding, *quantizing, *predicting}}

    def call_method(method: Any) -> Callable[[Any, Any], Any]:
        return lambda wanted, fixed: tokenizer.apply({'params': wanted[0] | fixed}, wanted[1], method=method)

    def encode(params: Any, images: Any) -> Any:
        return tokenizer.apply({'params': params}, images, method='latents')

    def quantize(model: Any, z: Any) -> Any:
        quantized = model.quantizer(z, train=True)
        return quantized.z_q, quantized.losses

    def predict(model: Any, z_q: Any) -> Any:
        factors = model.quantizer.split(z_q)
        return {name: predictor(factors[name])[:, 0] for name, predictor in model.predictor.items()}

    def update(params: Any, grads: Any, opt_state: Any) -> Any:
        new = {name: o.update(grads[name], opt_state[name], params[name]) for name, o in train_step.optimizers.items()}
        return {name: (optax.apply_updates(params[name], updates), kept) for name, (updates, kept) in new.items()}

    latents = noise(jax.eval_shape(encode, encoding, images))
    z_q = noise(jax.eval_shape(call_method(quantize), (quantizing, latents), {})[0])
    parts = [
        with_gradient('encoder', encode, encoding, images),
        with_gradient('quantizer', call_method(quantize), (quantizing, latents), {}),
        with_gradient('decoder', call_method('decode_latents'), (decoding, z_q), {}),
    ]
    if predicting:
        parts.append(with_gradient('feature predictors', call_method(predict), (predicting, z_q), quantizing))
    for name, teacher in objective.teachers.items():
        parts.append(Part(f'{name}, forward only', teacher.module.apply, (frozen['teachers'][name], images)))
    network = objective.perceptual
    assert network is not None

    def distance(reconstruction: Any, fixed: Any) -> Any:
        return network.module.apply(fixed[0], reconstruction, fixed[1])

    reconstruction = -images
    parts.append(with_gradient(network.name, distance, reconstruction, (frozen['perceptual'], images)))
    discriminating = (state.params['discriminator'], state.model_state['discriminator'], images, reconstruction)
    parts.append(Part('discriminator', discriminator_part(objective), discriminating))
    return [*parts, Part('optimizers', update, (state.params, state.params, state.opt_state))]


def discriminator_part(objective: TokenizerObjective) -> Callable[..., Any]:
    """Computes logits of real and fake; both players' gradients, as in the step."""
    game = objective.game
    assert game is not None
    loss = ADVERSARIAL_LOSSES[game.loss]

    def run(params: Any, state: Any, real: Any, fake: Any) -> Any:
        def losses(params: Any, fake: Any) -> tuple[tuple[Any, Any], Any]:
            logits, changed = [], dict(state)
            for images in (real, fake):
                found, changed = game.discriminator.apply(
                    {'params': params, **changed}, images, train=True, mutable=list(changed)
                )
                logits.append(found)
            return (loss.generator(logits[1]), loss.discriminator(*logits)), changed

        _, pull_back, changed = jax.vjp(losses, params, fake, has_aux=True)
        zero, one = jnp.zeros(()), jnp.ones(())
        return pull_back((one, zero))[1], pull_back((zero, one))[0], changed

    return run


def compare_with_torch(args: argparse.Namespace, model: VQGAN, params: Any, images: jax.Array) -> None:
    """Times mean squared error and quantizer losses, with gradients of all parameters, in JAX and PyTorch."""
    from torch_autoencoder import Autoencoder, TorchMeasurement

    def loss(params: Any, images: Any) -> jax.Array:
        output = model.apply({'params': params}, images, train=True)
        return jnp.mean(jnp.square(output.reconstruction - images)) + sum(output.losses.values())

    names = ('channels', 'channel_multipliers', 'res_blocks', 'latent_channels', 'codebook_size', 'codebook_dim')
    theirs = TorchMeasurement(Autoencoder(*(getattr(model, name) for name in names)))
    if sorted(theirs.parameter_sizes) != sorted(x.size for x in jax.tree.leaves(params)):
        raise RuntimeError('the PyTorch model has other parameters than ours')
    print(f'\nencoder + quantizer + decoder alone, forward and backward, beside {theirs.description}')
    print(f'{"":<24}{"seconds":>10}{"/ JAX":>9}')
    rows = {'JAX': measure(Part('autoencoder', jax.value_and_grad(loss), (params, images)), args.steps).seconds}
    for name, channels_last in (('PyTorch, NCHW', False), ('PyTorch, NHWC', True)):
        rows[name] = fastest(theirs.call(np.asarray(images), args.dtype, channels_last), args.steps)
    for name, seconds in rows.items():
        print(f'{name:<24}{seconds:>10.4f}{seconds / rows["JAX"]:>9.2f}')


def measure_step(train_step: TrainStep, state: TrainState, batch: Batch, steps: int) -> tuple[StepCost, float]:
    """Measures the step as training runs it, and the seconds of its compilation."""
    runner = make_runner('jit', devices=1)
    frozen, placed = runner.put_frozen(train_step.objective.frozen), runner.put_batch(batch)
    carried = runner.enter(jax.tree.map(jnp.copy, state))  # the step reuses the memory of what it is given
    start = time.perf_counter()
    compiled, flops = runner.compile(train_step, carried, frozen, placed)
    compiling = time.perf_counter() - start

    def advance() -> None:
        nonlocal carried
        carried, report = compiled(carried, frozen, placed)
        jax.block_until_ready(carried)
        if not report.metrics['finite']:
            raise FloatingPointError('a loss or a gradient is not finite')

    return StepCost(fastest(advance, steps), flops, planned_bytes(compiled)), compiling


def report(name: str, part: StepCost, step: StepCost, args: argparse.Namespace) -> None:
    used = model_flops_utilization(part.flops, part.seconds, 1, jax.devices()[0].device_kind, args.dtype)
    memory = '-' if part.planned_bytes is None else f'{part.planned_bytes / 2**20:.0f}'
    print(
        f'{name:<24}{part.seconds:>10.4f}{part.seconds / step.seconds:>9.1%}{part.flops / 1e9:>11.4g}'
        f'{part.flops / part.seconds / 1e9:>11.4g}{"-" if used is None else f"{used:.1%}":>8}{memory:>11}'
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', choices=('vqgan', 'fqgan_dual'), default='vqgan')
    parser.add_argument('--preset', choices=('published', 'tiny'), default='published', help='tiny: for tests')
    parser.add_argument('--image_size', type=int, default=256)
    parser.add_argument('--batch_size', type=int, default=8)
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the networks')
    parser.add_argument('--steps', type=int, default=10, help='timed calls of the step and of each part')
    args = parser.parse_args(argv)

    objective = make_objective(args, jnp.dtype(args.dtype))
    optimizer = make_optimizer(learning_rate=1e-4, total_steps=100)
    train_step = TrainStep(objective, dict.fromkeys(objective.players, optimizer))
    images = noise(jax.ShapeDtypeStruct((args.batch_size, args.image_size, args.image_size, 3), jnp.float32))
    batch = {'image': np.asarray(images)}
    state = make_runner('jit', devices=1).init(train_step, 0, batch)

    print(f'{args.model} ({args.preset}), {args.image_size} x {args.image_size} pixels, batch {args.batch_size}')
    print(f'{args.dtype}, jax {jax.__version__}, one of: {jax.devices()[0].device_kind}')
    for player, tree in state.params.items():
        print(f'{player}: {sum(x.size for x in jax.tree.leaves(tree)) / 1e6:.1f} M parameters')

    step, compiling = measure_step(train_step, state, batch, args.steps)
    print(f'{args.batch_size / step.seconds:.4g} images/s; the step compiled in {compiling:.0f} s')
    print('parts are compiled and timed alone: they need not add up to the step\n')
    print(f'{"":<24}{"seconds":>10}{"of step":>9}{"GFLOP":>11}{"GFLOP/s":>11}{"MFU":>8}{"plan MiB":>11}')
    report('full step', step, step, args)
    measured = []
    for part in step_parts(objective, train_step, state, images):
        measured.append(measure(part, args.steps))
        report(part.name, measured[-1], step, args)
    total = StepCost(sum(part.seconds for part in measured), sum(part.flops for part in measured))
    report('sum of the parts', total, step, args)
    if isinstance(objective.tokenizer, VQGAN) and importlib.util.find_spec('torch'):
        compare_with_torch(args, objective.tokenizer, state.params['tokenizer'], images)


if __name__ == '__main__':
    main()
