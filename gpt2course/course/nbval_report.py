"""A pytest plugin for the grader: it writes what nbval finds in each cell, and does not wait for a dead kernel.

    pytest -p gpt2course.course.nbval_report --nbval-lax --cells-report cells.jsonl x.ipynb

For each cell it writes {"cell": 3, "outcome": "passed", "xfail": false}, and for a cell that failed also {"cell": 3,
"ename": ..., "evalue": ..., "problem": ...}. After a timeout or a dead kernel the results of later cells mean nothing,
so the run ends there; a cell without a line did not run.
"""

import json
import math
import time
from queue import Empty

from nbval.kernel import RunningKernel

REPORT = None  # the open file


def pytest_addoption(parser):
    parser.addoption("--cells-report", required=True, help="file for the lines of JSON")


def pytest_configure(config):
    global REPORT
    REPORT = open(config.getoption("--cells-report"), "a", encoding="utf-8", buffering=1)
    original = RunningKernel.get_message

    def get_message(self, stream, timeout=None):
        """Wait in slices of a second, so that a dead kernel is noticed at once and not after the timeout."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return original(self, stream, timeout=max(0.0, min(1.0, end - time.monotonic())))
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("the kernel died") from None
                if time.monotonic() >= end:
                    raise

    RunningKernel.get_message = get_message


def _write(nodeid: str, **found) -> None:
    REPORT.write(json.dumps({"cell": int(nodeid.rpartition(" ")[2]), **found}) + "\n")


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        _write(report.nodeid, outcome=report.outcome, xfail=hasattr(report, "wasxfail"))


def pytest_exception_interact(node, call, report):
    if not hasattr(node, "cell_num"):
        return
    error = next((o for o in node.test_outputs or [] if o.output_type == "error"), {})
    over, kernel = node.parent.timed_out, node.parent.kernel
    dead = kernel is None or not kernel.is_alive()
    problem = "timeout" if over else "dead" if dead else "error" if error else "differs"
    _write(node.nodeid, problem=problem, ename=str(error.get("ename", "")), evalue=str(error.get("evalue", ""))[:2000])
    if over or dead:
        node.session.shouldstop = "the kernel hangs or is dead"
