"""An offline cluster for lesson 09: recorded training runs, revealed one at a time and paid for in FLOPs.

`lab.cluster(flops=3e11)` makes one. It offers the sizes of a recorded grid at every budget but the largest, which is
hidden. A forecast for it ends the game and is scored. (The runs are in a file that anyone can open.)
"""

import math
import statistics

import numpy as np

from gpt2course import scaling
from gpt2course.files import UserError

MISS = 2 / 0.05  # price of a miss by a 95 % interval, for each unit of distance (Gneiting and Raftery, 2007)


def split(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """(what is seen, what is hidden): the largest budget with a minimum; those up to a quarter of it, or below."""
    groups = scaling.by_budget([r for r in rows if r["role"] in ("grid", "held back")])
    last = max(c for c, group in groups.items() if "n" in scaling.minimum(group))
    seen = [c for c in groups if c <= last / 4]
    seen = seen if len(seen) >= 3 else [c for c in groups if c < last]
    return [r for c in seen for r in groups[c]], groups[last]


class Cluster:
    """rows: runs with "budget", "n", "tokens", "seed" and "val_bpb"; those of the largest budget are hidden."""

    def __init__(self, rows: list[dict], flops: float):
        self.flops, self.bill, self.queue, self.done, self.scored = flops, 0.0, [], [], None
        self.target = max(r["budget"] for r in rows)
        kept = {}  # (budget, n) -> bits per byte, one for each seed
        for r in sorted(rows, key=lambda r: r["seed"]):
            kept.setdefault((r["budget"], r["n"]), []).append(r["val_bpb"])
        self._runs = lambda: {k: list(v) for k, v in kept.items()}
        self._tokens = {(r["budget"], r["n"]): r["tokens"] for r in rows}

    def offers(self) -> dict[float, list[int]]:
        """The sizes N that can be trained at each budget; the target's are those that a forecast may name."""
        runs = sorted(self._runs())
        return {budget: [n for b, n in runs if b == budget] for budget, _ in runs}

    def add(self, budget: float, n: int) -> None:
        """Put a run in the queue. A run that the cluster does not have, or that the bill cannot take, is refused."""
        if self.scored:
            raise UserError("the game is over: the forecast was scored")
        if budget == self.target:
            raise UserError(f"{budget:g} FLOPs is the budget that you forecast; no run of it is for sale")
        if n not in self.offers().get(budget, ()):
            raise UserError(f"no run of {budget:g} FLOPs with N = {n:,}; offers() lists what there is")
        if sum(job[:2] == (budget, n) for job in [*self.done, *self.queue]) >= len(self._runs()[budget, n]):
            raise UserError(f"{budget:g} FLOPs with N = {n:,} was trained with each of its seeds already")
        waiting = sum(b for b, _ in self.queue)
        if self.bill + waiting + budget > self.flops * (1 + 1e-9):
            raise UserError(f"refused: {budget:g} FLOPs, but only {self.flops - self.bill - waiting:.3g} are left")
        self.queue.append((budget, n))

    def next(self) -> float:
        """Train the first run of the queue; returns its bits per byte. A second run of a size has the second seed."""
        if not self.queue:
            raise UserError("the queue is empty")
        budget, n = self.queue.pop(0)
        bpb = self._runs()[budget, n][sum(job[:2] == (budget, n) for job in self.done)]
        self.bill += budget
        self.done.append((budget, n, bpb))
        return bpb

    def submit(self, budget: float, n: int) -> float:
        """Queue a run, train the queue to its end, and return the bits per byte of this run."""
        self.add(budget, n)
        return [self.next() for _ in list(self.queue)][-1]

    def rows(self) -> list[dict]:
        """The runs so far, as the functions of scaling.py take them."""
        return [dict(budget=b, n=n, tokens=self._tokens[b, n], val_bpb=bpb) for b, n, bpb in self.done]

    def forecast(self, n: float, bpb: float, low: float, high: float) -> dict:
        """End the game: your size for the target, the bits per byte that it will have, and an interval of 95 %.

        {"regret": bpb at this size less the lowest, "truth": bpb at this size, "inside", "score": the interval's width,
        plus 40 times the distance of a truth outside}. Between recorded sizes the truth is interpolated in log N.
        """
        if self.scored:
            raise UserError("the forecast was scored already; a second one would know the answer")
        if not low <= bpb <= high:
            raise UserError(f"the interval {low:.4f} to {high:.4f} does not contain your forecast {bpb:.4f}")
        sizes = self.offers()[self.target]
        means = [statistics.mean(self._runs()[self.target, size]) for size in sizes]
        truth = float(np.interp(math.log(n), np.log(sizes), means))
        miss = max(low - truth, truth - high, 0.0)
        self.scored = dict(regret=truth - min(means), truth=truth, inside=miss == 0, score=high - low + MISS * miss)
        return self.scored
