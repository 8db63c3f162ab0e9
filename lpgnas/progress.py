"""Progress of long work on standard error: what is done, of how much, and the time left."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Counts steps of one piece of work and shows a line: in place on a terminal, sparsely elsewhere.

    Args:
        what: the name of the work.
        total: its number of steps.
        stream: where lines go; None is silent.
    """

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self._what, self._total, self._stream = what, max(total, 1), stream
        self._done, self._started, self._shown = 0, time.monotonic(), 0.0
        self._live = stream is not None and stream.isatty()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more and show the line if it is due."""
        self._done += steps
        now = time.monotonic()
        due = 0.2 if self._live else 10.0
        if self._stream is None or (now - self._shown < due and self._done < self._total):
            return
        self._shown = now
        elapsed = now - self._started
        left = elapsed / self._done * (self._total - self._done) if self._done else 0.0
        line = f"{self._what}: {100 * self._done // self._total:3d} %, {elapsed:.0f} s, about {left:.0f} s left {note}"
        self._stream.write(f"\r{line:<100}" if self._live else f"{line.rstrip()}\n")
        if self._live and self._done >= self._total:
            self._stream.write("\n")
        self._stream.flush()


def standard_error(*, quiet: bool) -> TextIO | None:
    """Standard error, or None where progress is not wanted."""
    return None if quiet else sys.stderr
