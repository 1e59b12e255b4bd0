"""Time limit of decoding: what would take too long is refused after a short while, with how long it would take."""

import math
import time

from vistok.compression.format.header import BitstreamError

_PATIENCE = 10.0  # seconds after which the rest is estimated; a tenth of the limit where that is less


class TimeLimit:
    """Clock of one stage of decoding that consists of many equal parts.

    The first call starts it, so that the compilation of programs for the first part is not counted.

    Args:
      seconds: that the stage may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start: tuple[float, int] | None = None

    def check(self, done: int, total: int) -> None:
        """Estimates the time of the whole stage from the parts that are done.

        Raises:
          BitstreamError: it would take more than the limit.
        """
        if self._start is None:
            self._start = (time.monotonic(), done)
            return
        start, first = self._start
        spent = time.monotonic() - start
        if spent < min(_PATIENCE, self._seconds / 10) or done <= first:
            return
        expected = math.ceil(spent / (done - first) * total)
        if expected > self._seconds:
            raise BitstreamError(
                f'decoding this bitstream would take about {expected} s on this machine, above the limit of '
                f'{self._seconds:g} s; --max_seconds={expected} allows it'
            )
