"""Seconds in which no model works in an evaluation of bits per byte, on two ranks (gloo, one thread each).

    python results/2026-11-29_evaluation-idle/idle.py [label]    # adds a line to idle.jsonl

The model here is a function that returns zeros at once, so that all time is spent on tokens and rows. It is called three
times on the same 8 MB of text, as training does.
"""

import json
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from gpt2course import ranks  # noqa: E402
from gpt2course.data import load_corpus  # noqa: E402
from gpt2course.evaluate import bits_per_byte, first_bytes  # noqa: E402
from gpt2course.runlog import git_commit  # noqa: E402
from gpt2course.tokenizer import train_or_load  # noqa: E402

SIZE, T = 8_000_000, 2048


class Nothing(torch.nn.Linear):
    def forward(self, idx, targets, reduction):
        return torch.zeros(targets.shape)


def worker(rank: int, world: int, where: str, label: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=world)
    team, corpus = ranks.Ranks(rank, world), load_corpus("embedded")
    tokenizer, documents = train_or_load(corpus, 4096), first_bytes(corpus.train, SIZE)
    seconds = []
    for _ in range(3):
        team.reduce(0)  # together
        began = time.perf_counter()
        bits_per_byte(Nothing(1, 1), documents, tokenizer, T, 32, None, team)
        seconds.append(round(time.perf_counter() - began, 3))
    if rank == 0:
        line = {"label": label, "seconds": seconds, "bytes": SIZE, "world": world, "torch": torch.__version__, "commit": git_commit()}
        with (HERE / "idle.jsonl").open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(line)
    ranks.part()


if __name__ == "__main__":
    rendezvous = f"/tmp/idle-{time.time_ns()}"
    torch.multiprocessing.spawn(worker, (2, rendezvous, sys.argv[1] if len(sys.argv) > 1 else ""), 2)
