"""What all tests share."""

import csv
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DURATIONS = ROOT / "results" / "2026-11-29_test-durations" / "durations.csv"

# One thread, set before torch is imported, here and in every process a test starts: the models of the tests are too small to
# share out, and two tests or two processes never fight over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")  # figures are written to files, on machines with a screen too
# A shell that starts pytest in the background lets it ignore Ctrl-C, and with it every process of a test that is about Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """The longest files come first, by their recorded seconds, so that two workers end together. `make test` keeps this order."""
    with open(DURATIONS, encoding="utf-8") as f:
        seconds = {ROOT / row["file"]: float(row["seconds"]) for row in csv.DictReader(f)}
    items.sort(key=lambda item: -seconds.get(item.path, 60.0))  # a file without a record may be a long one


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
