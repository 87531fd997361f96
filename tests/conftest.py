"""What all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dev_data() -> Path:
    """The development data, for tests that need real shards or the real CORE bundle; they skip on a machine without it."""
    folder = os.environ.get("GPT2COURSE_DEV_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GPT2COURSE_DEV_DATA is not set to the folder of development data")
    return Path(folder)
