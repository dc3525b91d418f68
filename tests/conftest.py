"""How the tests are shared out among pytest's processes."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class ByRoom(LoadScopeScheduling):
    """A process takes a file of the package's tests, or all of another folder's.

    These share what takes long to make: the atlas, the cluster.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = file.rpartition("/")[0]
        return file if folder.endswith("package") else folder


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByRoom:
    """Have pytest-xdist share the tests out by `ByRoom`."""
    return ByRoom(config, log)
