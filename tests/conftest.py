"Settings that every test shares: no hub, no GPU, few threads, a backend without a screen."
import os

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="2", MPLBACKEND="agg", TQDM_DISABLE="1")
