"""Standard output is for results; what Isaac Lab and rsl_rl print there goes to the log."""

import io
import logging
from contextlib import redirect_stdout

logger = logging.getLogger(__name__)


def to_log() -> redirect_stdout[io.TextIOBase]:
    """Return a context in which printed lines become debug records."""
    return redirect_stdout(_Log())


class _Log(io.TextIOBase):
    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            logger.debug("%s", line)
        return len(text)
