"""Fixtures of the tests of compression."""

import jaxtyping
import pytest


@pytest.fixture
def annotations_unchecked():
    """Switches the checks of annotations off, which take nine tenths of the time where symbols are coded one by one."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update('jaxtyping_disable', True)
    yield
    jaxtyping.config.update('jaxtyping_disable', before)
