"""Atomic writes: whole files or none, with the permissions of new files."""

import os
import stat

import numpy as np
import pytest

from vistok.files import write_arrays, write_atomically, write_file, write_text


def test_contents_come_back(tmp_path):
    write_file(tmp_path / 'a.bin', b'\0\1')
    write_text(tmp_path / 'a.txt', 'ä\n')
    write_arrays(tmp_path / 'a.npz', x=np.arange(3))
    assert (tmp_path / 'a.bin').read_bytes() == b'\0\1'
    assert (tmp_path / 'a.txt').read_text('utf-8') == 'ä\n'
    assert np.load(tmp_path / 'a.npz')['x'].tolist() == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(('umask', 'mode'), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_file(tmp_path / 'a', b'x')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'a').stat().st_mode) == mode


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path):
    def fill(file):
        file.write(b'half')
        raise KeyboardInterrupt

    write_file(tmp_path / 'a', b'old')
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / 'a', fill)
    assert [path.name for path in tmp_path.iterdir()] == ['a']
    assert (tmp_path / 'a').read_bytes() == b'old'


def test_contents_may_be_written_out_of_order(tmp_path):
    def fill(file):
        file.write(b'..cd')
        file.seek(0)
        file.write(b'ab')

    write_atomically(tmp_path / 'a', fill)
    assert (tmp_path / 'a').read_bytes() == b'abcd'
