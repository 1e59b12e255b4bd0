"""Experiment that trains a tokenizer on images."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vistok.data.tokens.dataset import token_folder
from vistok.errors import UserError
from vistok.experiments import assembly
from vistok.experiments.experiment import Evaluation, Experiment, run_initializers
from vistok.tokenizers.evaluation import evaluate_tokenizer
from vistok.tokenizers.trained import TrainedTokenizer
from vistok.training.initialization import Arrays
from vistok.training.parallel import Runner
from vistok.training.state import TrainState
from vistok.training.writers import MetricWriter
from vistok.visualization import save_png


class TokenizerExperiment(Experiment):
    """Experiment of a tokenizer, see `Experiment`.

    Raises:
      UserError: settings or files that do not fit.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path) -> None:
        del workdir  # all that a tokenizer needs is in its config
        if token_folder(config.data.source) is not None:
            raise UserError(f'a tokenizer learns from images; data.source={config.data.source} holds tokens')
        self.config = config
        self.train_data = assembly.train_batches(config)
        self._validation = assembly.evaluation_batches(config)
        self.objective = assembly.build_tokenizer_objective(config)
        self.example = assembly.example_batch(config)

    def companions(self) -> Mapping[str, TrainedTokenizer]:
        return {}

    def initial_arrays(self) -> Arrays:
        return run_initializers(self.objective.tokenizer, self.config, assembly.initial_data(self.config))

    def metrics(self) -> Sequence[str]:
        perceptual = self.objective.perceptual
        names = self.objective.tokenizer.spec.codebook_names
        codebooks = [f'{kind}/{name}' for name in names for kind in ('usage', 'perplexity')]
        return ['psnr', 'ssim', *([perceptual.name] if perceptual else []), *codebooks]

    def evaluation(self, runner: Runner, writer: MetricWriter, images: pathlib.Path) -> Evaluation:
        tokenizer = self.objective.tokenizer

        def forward(variables: Any, batch: Any) -> Any:
            output: Any = tokenizer.apply(variables, batch['image'], train=False)
            return output.reconstruction, output.tokens

        compiled = runner.compile_evaluation(forward)

        def evaluate(state: TrainState, step: int) -> dict[str, float]:
            params = state.params['tokenizer'] if state.ema is None else state.ema
            variables = {'params': params, **state.model_state['tokenizer']}
            evaluation = evaluate_tokenizer(
                lambda images: compiled(variables, {'image': images}),
                self._validation,
                tokenizer.spec,
                perceptual=self.objective.perceptual,
                shown=self.config.evaluate.pictures,
            )
            if jax.process_index() == 0 and len(evaluation.originals):
                sheet = evaluation.sheet()
                save_png(images / f'reconstructions_{step:07d}.png', sheet)
                writer.write_images(step, {'reconstructions': sheet[None]})
            return evaluation.metrics

        return evaluate
