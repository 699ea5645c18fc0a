"Settings that every test shares: no hub, no GPU, few threads, a backend without a screen."
import os
import signal
from unittest.mock import patch

import pytest

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="2", MPLBACKEND="agg", TQDM_DISABLE="1")

# started in the background a shell makes Ctrl-C unheard, and children inherit that
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def own_sources():
    "Attention sources that a test registers are gone after it"
    from locloc.attention import SOURCES
    with patch.dict(SOURCES):
        yield
