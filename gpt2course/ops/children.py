"""The child processes of the runbook: how they are started, and what of their logs is for people. Lesson 14."""

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from gpt2course.files import UserError

ENDED = re.compile(r".*failed \(exitcode: (-?\d+)\) local_rank: (\d+).*")  # written by torchrun
NOISE = re.compile(r"[IWE]\d{4} \d\d:|error: |Traceback |  File |    |\[rank\d+\]: (\s|Traceback)")


def launch(argv: list[str], log: Path, mode: str, team: int, restarts: int, **options) -> subprocess.Popen:
    """Start `python -m argv` in a session of its own, with its output in `log`; team: as so many ranks of torchrun."""
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    if team:
        ranks_of = [f"--nproc_per_node={team}", f"--max-restarts={restarts}"]
        argv = ["torch.distributed.run", "--standalone", *ranks_of, "-m", *argv]
        # Ranks that are restarted must not read the addresses of the ranks before them (pytorch #135712), and after
        # SIGTERM ranks need time to save a checkpoint.
        env |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120"}
    with open(log, mode) as out:
        return subprocess.Popen(
            [sys.executable, "-m", *argv], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True, **options,
        )  # fmt: skip


def read_lines(log: Path, offset: int = 0) -> tuple[list[str], int]:
    """The whole lines of a log from a byte on, and the offset of the next one. Of a bar drawn with \\r, its end."""
    with open(log, "rb") as f:
        f.seek(offset)
        data = f.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [line.rpartition("\r")[2] for line in whole.decode("utf-8", "replace").split("\n")[:-1]], offset + len(whole)


def readable(lines: list[str]) -> list[str]:
    """The lines for people: no errors, which are raised, no tracebacks, and of torchrun only that a rank ended."""
    own = itertools.takewhile(lambda line: not line.startswith("torch.distributed.elastic."), lines)
    ended = (ENDED.sub(r"rank \2 ended with exit code \1", line) for line in own)
    return [line for line in ended if not NOISE.match(line)]


def show(lines: list[str]) -> None:
    for line in readable(lines):
        print(line, flush=True)


def failure(stage: str, lines: list[str], log: Path, code: int | None = None) -> UserError:
    """The one error of a command that ended without a result, from the lines that it wrote."""
    for line in reversed(lines):
        if line.startswith("error: "):
            return UserError(f"stage {stage}: {line.removeprefix('error: ')}")
        if line.startswith("stopped "):
            first = "raise that limit, then " if " by max_" in line else ""
            what = line.partition(", the same command")[0]
            return UserError(f"training {what}; {first}run this notebook again to resume")
    how = "without a result" if code is None else f"with exit code {code}"
    how += " (killed: is there enough memory?)" if code == -signal.SIGKILL else ""
    last = "\n".join([line for line in readable(lines) if line.strip()][-8:])
    return UserError(f"stage {stage} ended {how}; run this notebook again to resume. The end of {log}:\n{last}")
