"""What a generator's training run has besides that of a tokenizer: the tokenizer it is for, and samples to look at."""

import copy
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int
from ml_collections import ConfigDict

from vistok.data.images.pipeline import open_source
from vistok.data.text.features import PaddedText
from vistok.data.tokens.dataset import TokenSource, token_folder
from vistok.errors import UserError
from vistok.experiments import registry, run_folder
from vistok.experiments.loading import load_tokenizer
from vistok.experiments.sampling import draw_images, sample_batch
from vistok.experiments.tokenizer_file import TOKENIZER, read_tokenizer, write_tokenizer
from vistok.generators.evaluation import Batch, evaluate_generator
from vistok.generators.objective import GeneratorObjective
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.parallel import Runner, place
from vistok.training.state import TrainState
from vistok.training.writers import MetricWriter
from vistok.visualization import class_sheet, save_png


def complete(config: ConfigDict, workdir: pathlib.Path) -> tuple[ConfigDict, TrainedTokenizer]:
    """Finds the tokenizer and fills `config.tokens`, with what captions are of where there are some.

    Args:
      config: of the run.
      workdir: its folder, which holds the tokenizer if the run has begun.

    Returns:
      A config that says all that is needed to rebuild the generator, and the tokenizer.

    Raises:
      UserError: there is no tokenizer, its tokens are not those that were extracted, or its images or captions do not
        fit.
    """
    folder = token_folder(config.data.source)
    extracted = TokenSource(folder, 'train') if folder is not None else None
    tokenizer = find_tokenizer(config, workdir, folder)
    spec = tokenizer.spec
    if extracted is not None:
        theirs = extracted.about['fingerprint']
        if theirs != tokenizer.fingerprint:
            raise UserError(
                f'the tokens in {folder} are of the tokenizer with the fingerprint {theirs[:16]}…, but this run has '
                f'the one with {tokenizer.fingerprint[:16]}…: extract them again with launch/extract_tokens.py'
            )
        grid, class_names = tuple(extracted.about['grid']), extracted.class_names
    else:
        side = config.data.image_size
        if side % spec.cell:
            raise UserError(f'data.image_size is {side}, but this tokenizer needs a multiple of {spec.cell}')
        grid = (side // spec.downsample_factor,) * 2
        source = open_source(config.data.source, 'train', data_dir=config.data.data_dir or None)
        class_names = source.class_names
    config = copy.deepcopy(config)
    with config.unlocked():
        config.tokens = ConfigDict(
            {
                **dataclasses.asdict(spec),
                'grid': grid,
                'num_classes': len(class_names),
                'class_names': tuple(class_names),
                'fingerprint': tokenizer.fingerprint,
                **_about_captions(config, extracted),
            }
        )
    return config, tokenizer


def _about_captions(config: ConfigDict, extracted: TokenSource | None) -> dict[str, Any]:
    """What a generator on text notes of its captions; nothing for others."""
    text, wanted = registry.captions(config), config.model.get('text_tokens', 0)
    if text is None and not wanted:
        return {}
    if text is None:
        raise UserError(
            'a generator on text needs captions: make their features with launch/text_features.py and name the folder, '
            '--config.data.text_features=runs/tokens/text'
        )
    if not wanted:
        raise UserError(
            f'config.data.text_features is {config.data.text_features}, but config.model is conditioned on classes; '
            'configs/llamagen.py:text is on text'
        )
    if extracted is None:
        raise UserError(f'captions need extracted tokens (launch/extract_tokens.py); {config.data.source} is not such')
    if (text.tokens, text.width) != (wanted, config.model.text_width):
        raise UserError(
            f'the captions in {text.folder} have {text.tokens} vectors of {text.width} numbers; set '
            'config.model.text_tokens and config.model.text_width to that '
            f'({wanted} and {config.model.text_width} here)'
        )
    text.texts(extracted[0].name)
    return {'text': {'encoder': text.encoder, 'tokens': text.tokens, 'width': text.width}}


def find_tokenizer(config: ConfigDict, workdir: pathlib.Path, tokens: pathlib.Path | None) -> TrainedTokenizer:
    """The tokenizer of a run: the one it began with, the one its config names, or the one beside its tokens.

    Raises:
      UserError: there is none.
    """
    if run_folder.has_checkpoints(workdir) and (workdir / TOKENIZER).is_file():
        return read_tokenizer(workdir / TOKENIZER)
    if config.tokenizer:
        if not pathlib.Path(config.tokenizer).exists():
            raise UserError(f'there is no tokenizer {config.tokenizer}; {_HOW_TO_MAKE_ONE}')
        return load_tokenizer(config.tokenizer)
    if tokens is not None:
        return read_tokenizer(tokens / TOKENIZER)
    raise UserError(f'config.tokenizer is empty, and a generator needs a tokenizer; {_HOW_TO_MAKE_ONE}')


_HOW_TO_MAKE_ONE = (
    'train one, for example with python launch/train.py --config=configs/vqgan.py:digits, and name its run folder: '
    '--config.tokenizer=runs/vqgan-digits'
)


def keep_tokenizer(folder: pathlib.Path, tokenizer: TrainedTokenizer) -> None:
    """Puts the tokenizer beside what is made with it."""
    write_tokenizer(folder / TOKENIZER, tokenizer)


def generator_variables(state: TrainState) -> dict[str, Any]:
    """Variables of the generator: the moving average where the run keeps one."""
    params = state.params['generator'] if state.ema is None else state.ema
    return {'params': params, **state.model_state['generator']}


def evaluation(
    config: ConfigDict,
    objective: GeneratorObjective,
    runner: Runner,
    batches: Any,
    folder: pathlib.Path,
    writer: MetricWriter,
) -> Callable[[TrainState, int], dict[str, float]]:
    """What the loop calls when an evaluation is due: the loss over unseen images, and a sheet of samples by class."""
    tokenizer = objective.tokenizer
    assert tokenizer is not None
    frozen = jax.tree.map(lambda x: place(x, runner.replicated), tokenizer.variables)
    rng = jax.random.key(config.train.seed)
    compiled = runner.compile_evaluation(
        lambda variables, batch: objective.losses_by_image(variables['generator'], variables['tokenizer'], batch, rng)
    )
    draw = runner.compile_evaluation(
        draw_images(objective.generator, tokenizer.module, registry.sample_config(config), config.train.seed)
    )
    shown, columns = _shown(config), config.evaluate.per_class

    def evaluate(state: TrainState, step: int) -> dict[str, float]:
        variables = {'generator': generator_variables(state), 'tokenizer': frozen}

        def losses(batch: Batch) -> Any:
            return compiled(variables, batch)

        metrics = evaluate_generator(losses, batches)
        if columns:
            images = _draw_all(draw, variables, runner, shown, columns, config.evaluate.batch_size)
            if jax.process_index() == 0:
                sheet = class_sheet(images.reshape(-1, columns, *images.shape[1:]), shown.names)
                save_png(folder / f'samples_{step:07d}.png', sheet)
                writer.write_images(step, {'samples': sheet[None]})
        return metrics

    return evaluate


@dataclasses.dataclass(frozen=True)
class _Shown:
    """Rows of the sheet of samples: classes by their numbers, or captions."""

    numbers: Int[np.ndarray, ' n']
    names: list[str]
    text: PaddedText | None = None


def _shown(config: ConfigDict) -> _Shown:
    """Classes, or first captions of validation images, evenly spread over all."""
    text, folder = registry.captions(config), token_folder(config.data.source)
    if text is None or folder is None:
        numbers = _spread(config.tokens.num_classes, config.evaluate.classes)
        return _Shown(numbers, [config.tokens.class_names[i] for i in numbers])
    unseen = TokenSource(folder, 'validation')
    images = [unseen[int(i)].name for i in _spread(len(unseen), config.evaluate.classes)]
    names = [text.texts(image)[0] for image in images]
    return _Shown(np.arange(len(names), dtype=np.int32), names, text.first_features(images))


def _spread(count: int, shown: int) -> np.ndarray:
    """So many numbers below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(shown, count)).astype(np.int32))


def _draw_all(draw: Any, variables: Any, runner: Runner, shown: _Shown, columns: int, batch_size: int) -> np.ndarray:
    """A row of images for each class or caption; each process draws its share, and all get all."""
    labels = np.repeat(shown.numbers, columns)
    batch_size = min(batch_size, -(-len(labels) // runner.batch_shards) * runner.batch_shards)
    local = batch_size // jax.process_count()
    drawn = []
    for start in range(0, len(labels), batch_size):
        rows = start + jax.process_index() * local + np.arange(local, dtype=np.int32)
        wanted = sample_batch(labels[np.minimum(rows, len(labels) - 1)], rows.astype(np.int32), shown.text)
        images = draw(variables, wanted)
        if jax.process_count() > 1:
            images = multihost_utils.process_allgather(images, tiled=True)
        drawn.append(np.asarray(images))
    return np.concatenate(drawn)[: len(labels)]
