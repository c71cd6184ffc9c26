"""Where crash images are made: in memory if possible, for thousands of stores are opened and synced there."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 512 << 20


@pytest.fixture
def scratch(tmp_path):
    """An empty directory for a traced program's data and for images."""
    in_memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN
    path = Path(tempfile.mkdtemp(prefix="crash-", dir=MEMORY if in_memory else tmp_path)).resolve()
    yield path
    shutil.rmtree(path)
