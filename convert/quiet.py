"""transformers, peft and the exporters without their progress bars and warnings."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what other libraries say about themselves off stderr; errors still come through."""
    from transformers.utils import logging as display

    before, bars = logging.root.manager.disable, display.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    display.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if bars:
            display.enable_progress_bar()
