"""Writes the tokenizer of a run as one file, to be kept or passed on; every command that takes a run takes it too.

    python launch/export.py --run=runs/control_gic --out=control_gic.safetensors
    python launch/export.py --run=runs/control_gic --out=control_gic.safetensors --half      half the size

Values that are rounded to float16 (--half) are other weights: tokens and bitstreams of one are not the other's.
"""

from absl import flags

from vistok import cli

_RUN = flags.DEFINE_string('run', None, 'Run folder, one of its checkpoints, or converted weights.')
_OUT = flags.DEFINE_string('out', None, 'The .safetensors file to write.')
_HALF = flags.DEFINE_bool('half', False, 'Whether float32 values are rounded to float16.')
_NOTE = flags.DEFINE_string('note', '', 'What the file says about itself, such as data and licence.')
_FORCE = flags.DEFINE_bool('force', False, 'Whether an existing file is replaced.')


def main() -> None:
    """Loads, rounds if asked to, writes."""
    from pathlib import Path

    from vistok.errors import UserError
    from vistok.experiments import image_files
    from vistok.experiments.loading import load_tokenizer
    from vistok.experiments.saved_models import round_to_half, save_model

    if _RUN.value is None or _OUT.value is None:
        raise UserError('name a run and a file: --run=DIR --out=FILE.safetensors')
    path = Path(_OUT.value)
    if path.suffix != '.safetensors':
        raise UserError(f'weights are .safetensors files, got --out={path}')
    image_files.check_new(path, force=_FORCE.value)
    tokenizer = load_tokenizer(_RUN.value)
    save_model(
        path, round_to_half(tokenizer) if _HALF.value else tokenizer, {'note': _NOTE.value} if _NOTE.value else {}
    )
    print(f'wrote {path}: {type(tokenizer.module).__name__}, {path.stat().st_size / 2**20:.2f} MiB')


if __name__ == '__main__':
    cli.run(main)
