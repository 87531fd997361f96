"""What all tests share."""

import os
import signal
from pathlib import Path

import pytest

# One thread, set before torch is imported, here and in every process a test starts: the models of the tests are too small to
# share out, and two tests or two processes never fight over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")  # figures are written to files, on machines with a screen too
# A shell that starts pytest in the background lets it ignore Ctrl-C, and with it every process of a test that is about Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Files that take minutes come first, so that two workers end together: `make test` keeps this order."""
    minutes = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in minutes)


@pytest.fixture(scope="session")
def dev_data() -> Path:
    """The development data, for tests that need real shards or the real CORE bundle; they skip on a machine without it."""
    folder = os.environ.get("GPT2COURSE_DEV_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GPT2COURSE_DEV_DATA is not set to the folder of development data")
    return Path(folder)


@pytest.fixture
def course_home(tmp_path, monkeypatch) -> Path:
    """An empty folder as GPT2COURSE_HOME, for this test and the processes it starts."""
    folder = tmp_path / "course_home"
    monkeypatch.setenv("GPT2COURSE_HOME", str(folder))
    return folder
