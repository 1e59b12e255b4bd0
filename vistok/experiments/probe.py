"""Experiment that classifies images by the features of an encoder of pixels (ADDP's)."""

import copy
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vistok.errors import UserError
from vistok.experiments import assembly, registry, run_folder
from vistok.experiments.experiment import Evaluation, Experiment, run_initializers
from vistok.experiments.loading import load_component
from vistok.generators.evaluation import Batch, evaluate_generator
from vistok.generators.masked.linear_probe import LinearProbeObjective
from vistok.generators.trained import TrainedGenerator
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.initialization import Arrays
from vistok.training.parallel import Runner
from vistok.training.state import TrainState
from vistok.training.writers import MetricWriter

_SIZES = {'width': 'width', 'layers': 'encoder_layers', 'heads': 'encoder_heads'}  # ours: the generator's


class ProbeExperiment(Experiment):
    """Experiment of a classifier on a trained encoder, see `Experiment`.

    `config.encoder` names the model with the encoder: a run folder, one of our files, or an official file.

    Raises:
      UserError: there is no such model, it has no encoder of pixels, or it sees images of another size.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path) -> None:
        self.config = config = copy.deepcopy(config)
        self._trained: TrainedGenerator | None = None
        if run_folder.has_checkpoints(workdir):
            begun = run_folder.read_config(workdir)
            sizes, names = begun.encoder_model, begun.class_names
        else:
            self._trained = load_component(config, 'encoder', ('addp',))
            sizes, names = self._encoder_sizes(self._trained), assembly.open_images(config, 'train').class_names
        with config.unlocked():
            config.encoder_model, config.class_names = copy.deepcopy(sizes), tuple(names)
        self.train_data = assembly.train_batches(config)
        self._validation = assembly.evaluation_batches(config)
        model = registry.build_probe(config.model, config.encoder_model, len(config.class_names))
        self.objective = LinearProbeObjective(model, label_smoothing=config.model.label_smoothing)
        self.example = assembly.example_batch(config)

    def _encoder_sizes(self, trained: TrainedGenerator) -> ConfigDict:
        generator: Any = trained.generator
        rows, columns = generator.grid
        patch, size = generator.spec.downsample_factor, self.config.data.image_size
        if (rows * patch, columns * patch) != (size, size):
            raise UserError(
                f'data.image_size is {size}, but the encoder in {self.config.encoder} sees {rows * patch}x'
                f'{columns * patch} pixels'
            )
        sizes = {ours: getattr(generator, theirs) for ours, theirs in _SIZES.items()}
        return ConfigDict({'cells': rows * columns, 'patch': patch, **sizes})

    def companions(self) -> Mapping[str, TrainedTokenizer]:
        return {}

    def initial_arrays(self) -> Arrays:
        assert self._trained is not None, 'a run that has begun has no initial arrays'
        components = {'encoder': self._trained.variables['params']['encoder']}
        data = assembly.initial_data(self.config, components=components)
        return run_initializers(self.objective.model, self.config, data)

    def metrics(self) -> Sequence[str]:
        return ['loss', 'accuracy']

    def evaluation(self, runner: Runner, writer: MetricWriter, images: pathlib.Path) -> Evaluation:
        del writer, images
        compiled = runner.compile_evaluation(self.objective.scores)

        def evaluate(state: TrainState, step: int) -> dict[str, float]:
            del step
            params = state.params['recognizer'] if state.ema is None else state.ema
            variables = {'params': params, **state.model_state['recognizer']}

            def scores(batch: Batch) -> Any:
                return compiled(variables, {name: batch[name] for name in ('image', 'label')})

            return evaluate_generator(scores, self._validation)

        return evaluate
