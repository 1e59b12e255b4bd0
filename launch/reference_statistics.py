"""Measures real images once, for many evaluations against them.

    python launch/reference_statistics.py --source=tfds:imagenet2012 --split=train --image_size=256 --protocol=adm \\
        --inception=pt_inception-2015-12-05-6726825d.pth --out=imagenet256-train-adm.npz
    python launch/reference_statistics.py --source=embedded:digits --split=validation --out=digits.npz

`launch/evaluate.py --reference=FILE` reads the result.  The file says what was measured, how, and with which network.
"""

from typing import cast

from absl import flags

from vistok import cli

_SOURCE = flags.DEFINE_string('source', None, 'Images: a folder, an .npz file, or any source.')
_SPLIT = flags.DEFINE_enum(
    'split', None, ['validation', 'train'],
    'Which of them; default: all of a folder, the training images of other sources.',
)  # fmt: skip
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS datasets lie.')
_IMAGE_SIZE = flags.DEFINE_integer('image_size', None, 'Side of the centre crops; default: that of the first image.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'Images at a time.')
_PROTOCOL = flags.DEFINE_string(
    'protocol', None, 'adm, pytorch_fid, torch_fidelity, clean or stand_in; default: adm with --inception.'
)
_INCEPTION = flags.DEFINE_string('inception', None, 'Inception weights of pytorch-fid.')
_INCEPTION_SHA256 = flags.DEFINE_string('inception_sha256', None, 'Digest of these, if not the published file.')
_OUT = flags.DEFINE_string('out', None, 'File to write (.npz).')


def main() -> None:
    """Measures and writes."""
    from vistok.data.images.byte_batches import open_byte_batches
    from vistok.data.images.source import Split
    from vistok.errors import UserError
    from vistok.metrics.feature_extractor import load_extractor
    from vistok.metrics.feature_set import KEPT, save_statistics
    from vistok.metrics.feature_statistics import extract_features
    from vistok.metrics.protocols import find_protocol

    if _SOURCE.value is None or _OUT.value is None or not _OUT.value.endswith('.npz'):
        raise UserError('name the images and the file, for example --source=embedded:digits --out=digits.npz')
    protocol = find_protocol(_PROTOCOL.value or ('adm' if _INCEPTION.value else 'stand_in'))
    extractor = load_extractor(protocol, _INCEPTION.value, sha256=_INCEPTION_SHA256.value)
    batches = open_byte_batches(
        _SOURCE.value,
        split=cast(Split | None, _SPLIT.value),
        data_dir=_DATA_DIR.value,
        image_size=_IMAGE_SIZE.value,
        batch_size=_BATCH_SIZE.value,
    )
    found = extract_features(batches, extractor, keep=KEPT, progress=True)
    save_statistics(_OUT.value, found)
    print(f'protocol   {found.protocol}')
    print(f'images   {found.pool.count}, {found.images} ({found.images_sha256[:12]})')
    for name, reason in list(batches.skipped.items())[:1]:
        print(f'{len(batches.skipped)} images could not be read and do not count; the first: {name}: {reason}')
    print(f'wrote {_OUT.value}')


if __name__ == '__main__':
    cli.run(main)
