"""The weights that come with the package: small, whole, and those that files were written with."""

from vistok.experiments.codecs import SHIPPED, default_prior, open_codec
from vistok.weights.fingerprints import fingerprint_weights


def test_they_are_small_and_have_a_prior():
    files = [SHIPPED, default_prior(str(SHIPPED))]
    assert sum(file.stat().st_size for file in files) < 8 * 2**20


def test_files_that_were_written_with_them_stay_readable():
    codec = open_codec()
    assert codec.weights_fingerprint == fingerprint_weights(codec.tokenizer.variables)
    assert codec.weights_fingerprint.hex() == '020a0ddf0c33910e'
    assert codec.prior.fingerprint.hex() == '484935837ca9d191'
    assert codec.tokenizer.spec.grains == (1, 2, 4)
