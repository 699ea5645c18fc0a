"Settings that every test shares: no hub, no GPU, few threads, a backend without a screen."
import os
import signal

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="2", MPLBACKEND="agg", TQDM_DISABLE="1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background Ctrl-C is ignored, and children inherit that
