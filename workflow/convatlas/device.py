"""Which device computes, and what makes it compute the same twice."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from convatlas.job import log

WORKERS = 8  # calls at once at most, see `spread`


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


@contextmanager
def spread(device: torch.device) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give a `map` for calls that don't depend on each other.

    On a processor several run at once, each on its share of torch's threads: small
    operations gain more by that than by being divided themselves.
    """
    threads = torch.get_num_threads()
    workers = min(threads, WORKERS) if device.type == "cpu" else 1
    if workers == 1:
        yield map
        return
    each = max(threads // workers, 1)
    try:
        with ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(each,)
        ) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)


def run_or_halve(run: Callable[[Any], Any], batch: Any, halves: Callable[[Any], Any]) -> list[Any]:
    """Return what `run` makes of a batch, or of its halves where the device's memory is full.

    `halves` gives the two halves of a batch; one that holds a single item fails.
    """
    try:
        return [run(batch)]
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    torch.cuda.empty_cache()
    log.info("out of memory with a batch of %d; halving it", len(batch))
    return [done for half in halves(batch) for done in run_or_halve(run, half, halves)]


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
