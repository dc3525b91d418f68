"""Which device computes, and what makes it compute the same twice."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from convatlas.job import log


def choose_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU, and log which."""
    if torch.cuda.is_available():
        # TensorFloat-32 keeps ten bits: not enough to agree with the CPU to 1e-5.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        log.info("computing on %s", torch.cuda.get_device_name())
        return torch.device("cuda")
    log.info("computing on the CPU with %d threads", torch.get_num_threads())
    return torch.device("cpu")


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Have torch use so many threads on the CPU, whatever is there, as long as the block runs.

    The order in which a gradient is summed, and so its last bits, depend on their number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seed_everything(seed: int) -> None:
    """Seed every random generator and have torch use deterministic algorithms only."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS isn't deterministic without
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 -- libraries, and users' code, may use it
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before writing it, and filling it first costs a fifth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
