"""Learned positions keep their values on their own grid and vary smoothly on others."""

import jax.numpy as jnp
import numpy as np

from vistok.networks.positions import resample_positions


def test_positions_are_exact_on_their_own_grid_and_smooth_on_others():
    ramp = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 4, 1)).reshape(16, 1)
    assert resample_positions(ramp, (4, 4)) is ramp
    finer = resample_positions(ramp, (8, 8)).reshape(8, 8)
    np.testing.assert_allclose(finer[:, 0], finer[:, 7], atol=1e-5)
    assert (np.diff(finer[:, 0]) > 0).all()
    np.testing.assert_allclose(finer[2:6, 0], [0.75, 1.25, 1.75, 2.25], atol=0.1)


def test_rows_and_columns_keep_their_places_on_oblong_grids():
    ramp = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 4, 1)).reshape(16, 1)
    oblong = resample_positions(ramp, (2, 8)).reshape(2, 8)
    np.testing.assert_allclose(oblong, np.broadcast_to(oblong[:, :1], (2, 8)), atol=1e-5)
    assert oblong[0, 0] < oblong[1, 0]
