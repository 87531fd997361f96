"""The runbook, killed at random moments: the same notebook and the same code as on eight GPUs, at a tiny size, with two ranks and with one.

papermill, the kernel, torchrun, a rank, or everything at once, as when a machine goes. Whatever it was, the same command resumes, the curve,
the weights and the scores are those of an undisturbed run to the last bit, and nothing is left running.
GPT2COURSE_REHEARSAL_KILLS adds kills; what 30 and 60 gave stands in LOG.md.
"""

import contextlib
import os
import random
import subprocess
import sys
import time

import psutil
import pytest
from helpers import curve, embedded_corpus, papermill, same, weights

from gpt2course.files import read_json
from gpt2course.ops import runbook

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="processes that end with their parent")]
MORE = int(os.environ.get("GPT2COURSE_REHEARSAL_KILLS", 0))
OFTEN = ["rank", "everything", "rank", "kernel", "papermill", "torchrun"]
KILLS = {  # ranks: kills before, in and after training; in training, a kill that starts torchrun anew comes before RESTARTS are used up
    2: {"early": ["everything"], "train": ["rank", "torchrun", "papermill", "kernel", "everything"], "late": ["kernel"]},
    1: {"early": ["papermill"], "train": ["torchrun", "rank", "kernel", "everything"], "late": ["papermill"]},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return embedded_corpus(tmp_path_factory.mktemp("corpus"), 3000)


class Notebook:
    """`papermill runbooks/speedrun.ipynb` as a person starts it, again and again, always by the same command."""

    def __init__(self, home, name, corpus, ranks, steps):
        self.home, self.name, self.ranks, self.child, self.starts, self.hit = home, name, ranks, None, 0, False
        size = f"depth=2 width=32 head_dim=16 sequence_len=32 vocab_size=300 batch_tokens=512 steps={steps} eval_bytes=4000"
        given = dict(profile="8xh100", devices=ranks, settings=size, save_minutes=0.01, price_per_hour=24, max_hours=2, core_bundle="mini", core_examples=2,
                     seed=3, smoke="false", name=name, corpus=corpus)  # fmt: skip
        self.argv, self.env = papermill(home, "speedrun", home / f"{name}.ipynb", *[x for key, value in given.items() for x in ("-r", key, str(value))])
        self.folder = home / "runs" / name

    def start(self):
        with open(self.home / f"{self.name}.log", "ab") as out:
            self.child = subprocess.Popen(self.argv, env=self.env, cwd=self.home, stdout=out, stderr=out)
        self.starts, self.hit = self.starts + 1, False  # hit: something was killed that ends it

    def text(self):
        return (self.home / f"{self.name}.log").read_text(errors="replace")[-3000:]

    def processes(self) -> dict[psutil.Process, str]:
        """All processes that were started for this home, with their commands."""
        found = {}
        for p in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if p.environ().get("GPT2COURSE_HOME") == str(self.home) and p.status() != psutil.STATUS_ZOMBIE:
                    found[p] = " ".join(p.cmdline())
        return found

    def find(self, kind) -> list[psutil.Process]:
        """The processes that a kill of this kind is for."""
        there = self.processes()
        torchrun = [p for p, command in there.items() if "torch.distributed.run" in command and "gpt2course.train" in command]
        if kind == "torchrun":
            return torchrun
        if kind == "rank":
            ranks = [p for p, command in there.items() if "gpt2course.train" in command and p not in torchrun]
            return ranks if len(ranks) == self.ranks else []
        if self.child.poll() is not None:
            return []
        if kind == "kernel":
            return [p for p, command in there.items() if "ipykernel_launcher" in command]
        return [p for p in there if p.pid == self.child.pid] if kind == "papermill" else list(there)

    def stage(self):
        """The first stage that has no result."""
        return next((s for s in runbook.STAGES if s != "smoke" and runbook.stored(self.folder, s) is None), None)

    def checkpoint(self):
        return max((int(p.name[5:]) for p in (self.folder / "checkpoints").glob("step_????????")), default=0)

    def strike(self, when, kind, draw, before) -> int:
        """Wait for a random moment, kill, and return the step of the newest checkpoint at that moment."""
        deadline, wait, ready = time.monotonic() + 120, draw.random() * (1.2 if when == "train" else 3.0), None
        while True:
            assert time.monotonic() < deadline, f"no moment for {when}, {kind}; {self.stage()}\n{self.text()}"
            if self.child.poll() is not None:
                assert self.hit, f"it ended by itself with {self.child.returncode}:\n{self.text()}"
                self.start()
            stage = self.stage()
            place = "train" if stage == "train" else "early" if stage in ("preflight", "data", "tokenizer") else "late"
            reached = self.checkpoint()
            if place == when and (when != "train" or reached > before) and (found := self.find(kind)):
                ready = ready or time.monotonic()
                if time.monotonic() - ready >= wait:
                    break
            time.sleep(0.03)
        for p in [draw.choice(found)] if kind == "rank" else found:
            with contextlib.suppress(psutil.NoSuchProcess):
                p.kill()
        self.hit = self.hit or kind != "rank"  # torchrun restarts a rank; any other kill ends the notebook
        return reached


@pytest.mark.parametrize("ranks", KILLS)
def test_a_run_that_is_killed_again_and_again_is_the_undisturbed_run(ranks, course_home, corpus):
    plan = KILLS[ranks] | {"train": KILLS[ranks]["train"] + (OFTEN * MORE)[:MORE]}
    kills = [(when, kind) for when, kinds in plan.items() for kind in kinds]
    calm, book = (Notebook(course_home, name, corpus, ranks, steps=90 * len(plan["train"])) for name in ("calm", "killed"))
    calm.start()
    assert calm.child.wait(300) == 0, calm.text()
    began, draw, before = time.monotonic(), random.Random(8), 0
    book.start()
    for when, kind in kills:
        before = book.strike(when, kind, draw, before)
    while book.child.wait(300) and book.hit:  # papermill ended; the same command resumes
        book.start()
    assert book.child.returncode == 0, book.text()
    print(f"{ranks} ranks, {len(kills)} kills in {time.monotonic() - began:.0f} s; papermill started {book.starts} times")
    assert curve(book.folder) == curve(calm.folder) and same(weights(book.folder), weights(calm.folder))
    one, two = (read_json(b.folder / "summary.json") for b in (calm, book))
    for stage, name in (("evaluate", "val_bpb"), ("core", "result"), ("samples", "texts"), ("export", "sha256")):
        assert one[stage][name] == two[stage][name], stage
    deadline = time.monotonic() + 30
    while (left := book.processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == {}
