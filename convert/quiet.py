"""transformers, peft and the exporters without their progress bars and warnings."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what other libraries say about themselves off stderr; errors still come through."""
    from tqdm import tqdm
    from transformers.utils import logging as display

    before, bars = logging.root.manager.disable, display.is_progress_bar_enabled()
    show = tqdm.__init__
    logging.disable(logging.WARNING)
    display.disable_progress_bar()
    # transformers reads GGUF files with a bar that its own switch does not reach
    tqdm.__init__ = partialmethod(show, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tqdm.__init__ = show
        logging.disable(before)
        if bars:
            display.enable_progress_bar()
