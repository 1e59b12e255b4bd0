"""Public names of the package: every one can be imported, and importing the package imports none of them."""

import inspect
import subprocess
import sys

import pytest

import vistok


@pytest.mark.parametrize('name', vistok.__all__)
def test_every_public_name_is_there_and_described(name):
    assert inspect.getdoc(getattr(vistok, name))


def test_an_unknown_name_is_answered_with_the_public_ones():
    with pytest.raises(AttributeError, match=r"has no attribute 'lode'; public names: .*'?load"):
        _ = vistok.lode


def test_importing_the_package_imports_no_library():
    program = 'import sys, vistok; print([name for name in ("jax", "flax", "numpy") if name in sys.modules])'
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert result.stdout == '[]\n'
