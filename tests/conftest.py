"""One thread for torch, here and in the processes that tests start: the models are tiny, and threads that wait for one
another on a busy machine make them many times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
