"""What one process writes, another one reads, with other numbers of threads: every tokenizer, every model of ids."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from round_trip_process import encode

from vistok.errors import UserError
from vistok.experiments import codecs as opening
from vistok.experiments import registry
from vistok.experiments.config_files import load_config
from vistok.tokenizers.trained import TrainedTokenizer

ROOT = Path(__file__).parents[2]
CONFIGS = {
    'vqgan': 'vqgan.py:tiny',
    'vqgan_ema': 'vqgan.py:ema,tiny',
    'fqgan': 'fqgan.py:tiny',
    'vqgan_lc': 'vqgan_lc.py:tiny',
    'simvq': 'simvq.py:tiny',
    'simvq_vqgan': 'simvq.py:vqgan,tiny',
    'magvit2_vq': 'simvq.py:plain,tiny',
    'maskgit_vqgan': 'simvq.py:plain,tiny@maskgit_vqgan',
    'fvq': 'fvq.py:tiny',
    'fvq_rq': 'fvq.py:rq,tiny',
    'fsq': 'code_free.py:fsq,tiny',
    'lfq': 'code_free.py:lfq,tiny',
    'bsq': 'code_free.py:bsq,tiny',
    'dq_vae': 'dq_vae.py:tiny',
    'control_gic': 'control_gic.py:tiny',
    'control_gic_simvq': 'control_gic.py:codec,tiny',
}
WITH_GRAINS = ('dq_vae', 'control_gic', 'control_gic_simvq')
SIZES = [(1, 1), (1, 1000), (333, 217)]


def other_process(side, work, threads, cores, **environment):
    """Runs one side with a number of threads, for folders and their configs."""
    kept = {name: value for name, value in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}
    numbers = {'NPROC': threads, 'OMP_NUM_THREADS': threads, 'OPENBLAS_NUM_THREADS': threads, 'CORES': cores}
    given = {'XLA_FLAGS': '--xla_backend_optimization_level=0', 'PYTHONPATH': str(ROOT / 'tests')} | {
        k: str(v) for k, v in numbers.items()
    }
    command = [sys.executable, str(ROOT / 'tests/round_trip_process.py'), side]
    command += [str(part) for pair in work.items() for part in pair]
    ended = subprocess.run(
        command, cwd=ROOT, env=kept | given | environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def test_every_tokenizer_goes_round_or_is_refused():
    assert set(CONFIGS) | {'fvq_var'} == set(registry.names_of_kind('tokenizer'))


def test_tokens_that_belong_to_whole_images_are_refused(monkeypatch):
    module = registry.build_tokenizer(load_config('configs/fvq.py:var,tiny').model)
    monkeypatch.setattr(opening, 'resolve_tokenizer', lambda path: TrainedTokenizer(module, {}))
    with pytest.raises(UserError, match='runs/var holds a MultiScaleFVQ, whose coarse scales have ids for a whole'):
        opening.open_tokenizer('runs/var')


def test_ids_come_back_in_another_process(tmp_path):
    """One tokenizer with one grain and one with several; a size for which one program is compiled."""
    work = {tmp_path / name: CONFIGS[name] for name in ('vqgan', 'dq_vae')}
    for folder, config in work.items():
        folder.mkdir()
        encode(folder, config, ['none', 'tables', 'nested'], [(70, 71)])
    assert other_process('decode', work, threads=1, cores=1).split() == ['3', '3']


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_ids_of_every_tokenizer_come_back_with_every_prior_and_other_threads(name, tmp_path):
    priors = ['none', 'tables', 'nested', *([] if name in WITH_GRAINS else ['network'])]
    sizes = ' '.join(f'{height}x{width}' for height, width in SIZES)
    other_process('encode', {tmp_path: CONFIGS[name]}, threads=1, cores=1, PRIORS=' '.join(priors), SIZES=sizes)
    read = other_process('decode', {tmp_path: CONFIGS[name]}, threads=8, cores=64, IMAGES='yes')
    assert int(read) == len(priors) * len(SIZES)
