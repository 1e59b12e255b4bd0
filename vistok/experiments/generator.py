"""Experiment that trains a generator on the tokens of a frozen tokenizer."""

import copy
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int
from ml_collections import ConfigDict

from vistok.data.text.features import PaddedText
from vistok.data.tokens.dataset import TokenSource, token_folder
from vistok.errors import UserError
from vistok.experiments import assembly, registry, run_folder
from vistok.experiments.experiment import Evaluation, Experiment, run_initializers
from vistok.experiments.loading import TOKENIZER_FILE, build_run_generator, load_component, load_tokenizer
from vistok.experiments.sampling import draw_images, sample_batch
from vistok.generators.evaluation import Batch, evaluate_generator
from vistok.generators.objective import GeneratorObjective
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.initialization import Arrays
from vistok.training.parallel import Runner, place
from vistok.training.state import TrainState
from vistok.training.writers import MetricWriter
from vistok.visualization import class_sheet, save_png


class GeneratorExperiment(Experiment):
    """Experiment of a generator, see `Experiment`.

    The tokenizer is the one that the run began with, the one that `config.tokenizer` names, or the one beside the
    extracted tokens.  Trained models that are parts of the generator (`Generator.components`) are named likewise, by
    `config.<component>`.  Models are named by a run folder, one of our files, or an official file.

    Raises:
      UserError: there is no tokenizer, its tokens are not those that were extracted, or its images or captions do not
        fit.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path) -> None:
        folder = token_folder(config.data.source)
        extracted = TokenSource(folder, 'train') if folder is not None else None
        self._tokenizer = find_tokenizer(config, workdir)
        config = copy.deepcopy(config)
        with config.unlocked():
            config.tokens = _describe_tokens(config, self._tokenizer, extracted)
        if extracted is not None and 'text' in config.tokens and not run_folder.has_checkpoints(workdir):
            _refuse_mirrors(extracted)
        self._components: dict[str, TrainedGenerator] = {}
        cls: Any = registry.find_model(config.model.name).cls
        for name, kinds in cls.components.items():
            if run_folder.has_checkpoints(workdir):
                described = run_folder.read_config(workdir)[f'{name}_model']
            else:
                self._components[name] = _load_fitting(config, name, kinds, self._tokenizer)
                component = self._components[name].generator
                described = ConfigDict(registry.describe_model(component))
                if component.num_classes != config.tokens.num_classes:
                    described.num_classes = component.num_classes
            with config.unlocked():
                config[f'{name}_model'] = copy.deepcopy(described)
        self.config = config
        self.train_data = assembly.train_batches(config)
        self._validation = assembly.evaluation_batches(config)
        generator = build_run_generator(config, self._tokenizer)
        self.objective = GeneratorObjective(generator, self._tokenizer)
        self.example = assembly.example_batch(config)

    def companions(self) -> Mapping[str, TrainedTokenizer]:
        return {TOKENIZER_FILE: self._tokenizer}

    def initial_arrays(self) -> Arrays:
        components = {name: trained.variables['params'] for name, trained in self._components.items()}
        data = assembly.initial_data(self.config, tokenizer=self._tokenizer, components=components)
        return run_initializers(self.objective.generator, self.config, data)

    def metrics(self) -> Sequence[str]:
        sides = (side * self.config.tokens.downsample_factor for side in self.config.tokens.grid)
        batch: dict[str, Any] = {**self.example, 'image': np.zeros((1, *sides, 3), np.float32)}
        batch['index'] = np.zeros((1,), np.int32)
        if 'text' in self.config.tokens:
            tokens, width = self.config.tokens.text.tokens, self.config.tokens.text.width
            batch |= {'text': np.zeros((1, tokens, width), np.float32), 'text_mask': np.ones((1, tokens), bool)}

        def losses(tokenizer: Any, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
            return self.objective.losses_by_image(self.objective.generator.init(key), tokenizer, batch, key)

        return list(jax.eval_shape(losses, self._tokenizer.variables, batch, jax.random.key(0)))

    def evaluation(self, runner: Runner, writer: MetricWriter, images: pathlib.Path) -> Evaluation:
        config, objective, tokenizer = self.config, self.objective, self._tokenizer
        frozen = jax.tree.map(lambda x: place(x, runner.replicated), tokenizer.variables)
        rng = jax.random.key(config.train.seed)
        compiled = runner.compile_evaluation(
            lambda variables, batch: objective.losses_by_image(
                variables['generator'], variables['tokenizer'], batch, rng
            )
        )
        sampling = registry.build_sample_config(config.sample)
        draw = runner.compile_evaluation(
            draw_images(objective.generator, tokenizer.module, sampling, config.train.seed)
        )
        rows, columns = _sheet_rows(config), config.evaluate.per_class

        def evaluate(state: TrainState, step: int) -> dict[str, float]:
            params = state.params['generator'] if state.ema is None else state.ema
            variables = {'generator': {'params': params, **state.model_state['generator']}, 'tokenizer': frozen}

            def losses(batch: Batch) -> Any:
                return compiled(variables, batch)

            metrics = evaluate_generator(losses, self._validation)
            if columns:
                drawn = _draw_rows(draw, variables, runner, rows, columns, config.evaluate.batch_size)
                if jax.process_index() == 0:
                    sheet = class_sheet(drawn.reshape(-1, columns, *drawn.shape[1:]), rows.names)
                    save_png(images / f'samples_{step:07d}.png', sheet)
                    writer.write_images(step, {'samples': sheet[None]})
            return metrics

        return evaluate


def find_tokenizer(config: ConfigDict, workdir: pathlib.Path) -> TrainedTokenizer:
    """Loads the tokenizer of a run: that which it began with, which its config names, or which lies beside its tokens.

    Raises:
      UserError: there is none.
    """
    tokens = token_folder(config.data.source)
    if run_folder.has_checkpoints(workdir) and (workdir / TOKENIZER_FILE).is_file():
        return load_tokenizer(workdir / TOKENIZER_FILE)
    if config.tokenizer:
        if not pathlib.Path(config.tokenizer).exists():
            raise UserError(f'there is no tokenizer {config.tokenizer}; {_HOW_TO_MAKE_ONE}')
        return load_tokenizer(config.tokenizer)
    if tokens is not None:
        return load_tokenizer(tokens / TOKENIZER_FILE)
    raise UserError(f'config.tokenizer is empty, and a generator needs a tokenizer; {_HOW_TO_MAKE_ONE}')


_HOW_TO_MAKE_ONE = (
    'train one, for example with python launch/train.py --config=configs/vqgan.py:digits, and name its run folder: '
    '--config.tokenizer=runs/vqgan-digits'
)


def _load_fitting(
    config: ConfigDict, name: str, kinds: tuple[str, ...], tokenizer: TrainedTokenizer
) -> TrainedGenerator:
    """Loads a component, and checks that it generates the tokens of this run, for its classes or for none."""
    trained = load_component(config, name, kinds)
    generator, theirs = trained.generator, None if trained.tokenizer is None else trained.tokenizer.fingerprint
    differences = {
        'fingerprint': (theirs or tokenizer.fingerprint, tokenizer.fingerprint),
        'grid': (generator.grid, tuple(config.tokens.grid)),
        'num_classes': (generator.num_classes or config.tokens.num_classes, config.tokens.num_classes),
        'codebook_sizes': (generator.spec.codebook_sizes, tokenizer.spec.codebook_sizes),
    }
    for what, (there, here) in differences.items():
        if there != here:
            raise UserError(
                f'{config[name]} predicts other tokens than these: its {what} is {there}, that of this run {here}'
            )
    return trained


def _describe_tokens(config: ConfigDict, tokenizer: TrainedTokenizer, extracted: TokenSource | None) -> ConfigDict:
    """Returns `config.tokens`: the specification, grid, classes and, for generators on text, the captions."""
    spec = tokenizer.spec
    if extracted is not None:
        theirs = extracted.about['fingerprint']
        if theirs != tokenizer.fingerprint:
            raise UserError(
                f'the tokens in {token_folder(config.data.source)} are of the tokenizer with the fingerprint '
                f'{theirs[:16]}…, but this run has '
                f'the one with {tokenizer.fingerprint[:16]}…: extract them again with launch/extract_tokens.py'
            )
        grid, class_names = tuple(extracted.about['grid']), extracted.class_names
    else:
        side = config.data.image_size
        if side % spec.cell:
            raise UserError(f'data.image_size is {side}, but this tokenizer needs a multiple of {spec.cell}')
        grid = (side // spec.downsample_factor,) * 2
        class_names = assembly.open_images(config, 'train').class_names
    return ConfigDict(
        {
            **dataclasses.asdict(spec),
            'grid': grid,
            'num_classes': len(class_names),
            'class_names': tuple(class_names),
            'fingerprint': tokenizer.fingerprint,
            **_describe_captions(config, extracted),
        }
    )


def _describe_captions(config: ConfigDict, extracted: TokenSource | None) -> dict[str, Any]:
    """Returns what a generator on text notes of its captions; nothing for others."""
    text, needed = assembly.open_captions(config), config.model.get('text_tokens', 0)
    if text is None and not needed:
        return {}
    if text is None:
        raise UserError(
            'a generator on text needs captions: make their features with launch/text_features.py and name the folder, '
            '--config.data.text_features=runs/tokens/text'
        )
    if not needed:
        raise UserError(
            f'config.data.text_features is {config.data.text_features}, but config.model is conditioned on classes; '
            'configs/llamagen.py:text is on text'
        )
    if extracted is None:
        raise UserError(f'captions need extracted tokens (launch/extract_tokens.py); {config.data.source} is not such')
    if (text.tokens, text.width) != (needed, config.model.text_width):
        raise UserError(
            f'the captions in {text.folder} have {text.tokens} vectors of {text.width} numbers; set '
            'config.model.text_tokens and config.model.text_width to that '
            f'({needed} and {config.model.text_width} here)'
        )
    text.texts(extracted[0].name)
    return {'text': {'encoder': text.encoder, 'tokens': text.tokens, 'width': text.width}}


def _refuse_mirrors(extracted: TokenSource) -> None:
    """Refuses tokens of mirrored images for captions, which may say left and right."""
    if extracted.about.get('views') == 'ten_crop':
        raise UserError(
            f'{extracted.name} has tokens of mirrored images too (ten_crop), and captions may say left and '
            'right: extract them again with --views=centre --zooms=1'
        )


@dataclasses.dataclass(frozen=True)
class _SheetRows:
    """Rows of the sheet of samples: classes by their numbers, or captions."""

    numbers: Int[np.ndarray, ' n']
    names: list[str]
    text: PaddedText | None = None


def _sheet_rows(config: ConfigDict) -> _SheetRows:
    """Chooses classes, or first captions of validation images, evenly spread over all."""
    text, folder = assembly.open_captions(config), token_folder(config.data.source)
    if text is None or folder is None:
        numbers = _spread_evenly(config.tokens.num_classes, config.evaluate.classes)
        return _SheetRows(numbers, [config.tokens.class_names[i] for i in numbers])
    unseen = TokenSource(folder, 'validation')
    images = [unseen[int(i)].name for i in _spread_evenly(len(unseen), config.evaluate.classes)]
    names = [text.texts(image)[0] for image in images]
    return _SheetRows(np.arange(len(names), dtype=np.int32), names, text.first_features(images))


def _spread_evenly(count: int, shown: int) -> np.ndarray:
    """Returns `shown` numbers below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(shown, count)).astype(np.int32))


def _draw_rows(
    draw: Any, variables: Any, runner: Runner, rows: _SheetRows, columns: int, batch_size: int
) -> np.ndarray:
    """Draws a row of images for each class or caption; each process draws its share, and all get all."""
    labels = np.repeat(rows.numbers, columns)
    batch_size = min(batch_size, -(-len(labels) // runner.batch_shards) * runner.batch_shards)
    local = batch_size // jax.process_count()
    drawn = []
    for start in range(0, len(labels), batch_size):
        numbers = start + jax.process_index() * local + np.arange(local, dtype=np.int32)
        batch = sample_batch(labels[np.minimum(numbers, len(labels) - 1)], numbers.astype(np.int32), rows.text)
        images = draw(variables, batch)
        if jax.process_count() > 1:
            images = multihost_utils.process_allgather(images, tiled=True)
        drawn.append(np.asarray(images))
    return np.concatenate(drawn)[: len(labels)]
