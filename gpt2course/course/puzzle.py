"""The ninth puzzle: ranks that do not exist, whose messages are counted and whose results are checked. Lesson 11.

An answer is a program for one rank, `program(me)`. It sees shapes and no numbers: `play` records what the program of
each rank asks for, then runs all of it with real numbers and a clock. So nothing gets from one rank to another except
by a collective, and each collective is paid for. In the spirit of Sasha Rush's LLM Training Puzzles.
"""

from dataclasses import dataclass

import torch

from gpt2course.course.checks import Wrong
from gpt2course.optim import polar_express

BACKWARD, ADAMW, MUON = 64, 256, 32  # numbers that a rank computes in a tick
SPEED, LATENCY, RATE = 256, 1, 0.1  # bytes sent in a tick; ticks of a round; learning rate
RULES = {  # a first step without weight decay: Adam's acts number by number, Muon's on whole matrices
    "adamw": (lambda w, g: w - RATE * g / (g.abs() + 1e-8), 2, ADAMW),  # 2: numbers of state for a number
    "muon": (lambda w, g: w - RATE * polar_express(g), 1, MUON),
}
ROUNDS = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}  # each of world - 1 rounds of a ring


class Value:
    """Numbers of one rank that exist once the program runs. shape is known; v[a:b] cuts rows, flatten and view turn."""

    def __init__(self, me, shape, ready: bool):
        self.me, self.shape, self.ready, self.data = me, torch.Size(shape), ready, None

    def __getitem__(self, at):
        return self.me._do("[...]", lambda x: x[at], self)

    def flatten(self):
        return self.me._do("flatten", lambda x: x.flatten(), self)

    def view(self, *shape: int):
        return self.me._do("view", lambda x: x.reshape(shape), self)


class Rank:
    """`me`: what a program may ask for. A collective starts at once; its result may be used after `wait`."""

    def __init__(self, rank: int, world: int, shapes: dict):
        self.rank, self.world = rank, world
        self.shapes = dict(shapes)  # name -> (m, n), from the first layer to the last
        self._todo, self._left, self._stored, self._state = [], list(shapes), {}, 0

    def _do(self, kind: str, function, *inputs: Value, ticks: float = 0, ready: bool = True) -> Value:
        for v in inputs:
            if not isinstance(v, Value) or v.me is not self:
                raise Wrong(f"{kind} takes values such as me.weight(name); it got {type(v).__name__}")
            if not v.ready:
                raise Wrong(f"{kind} uses the result of a collective before me.wait: it has not arrived")
        out = Value(self, function(*(torch.empty(v.shape, device="meta") for v in inputs)).shape, ready)
        self._todo.append((kind, function, inputs, out, ticks))
        return out

    def _given(self, kind: str, name: str, ticks: float = 0) -> Value:
        return self._do(f"{kind} {name}", lambda: torch.empty(self.shapes[name], device="meta"), ticks=ticks)

    def weight(self, name: str) -> Value:
        return self._given("weight", name)

    def backward(self, name: str) -> Value:
        """The gradient of this rank's own rows, from the last matrix to the first. The sum over all ranks counts."""
        if self._left[-1:] != [name]:
            raise Wrong(f"backward({name!r}): call it once for each matrix, from the last to the first")
        return self._given("backward", self._left.pop(), torch.Size(self.shapes[name]).numel() / BACKWARD)

    def stack(self, values: list) -> Value:
        return self._do("stack", lambda *x: torch.stack(x), *values)

    def pad(self, v: Value, rows: int) -> Value:
        """v, followed by rows of zeros up to `rows`."""
        return self._do("pad", lambda x: torch.cat([x, x.new_zeros(max(0, rows - len(x)), *x.shape[1:])]), v)

    def adamw(self, w: Value, g: Value, rule: str = "adamw") -> Value:
        """The new w, from the sum of gradients; its numbers count as state of this rank."""
        f, state, speed = RULES[rule]
        n = self._do(rule, torch.add, w, g, ticks=w.shape.numel() / speed)  # checks both
        if w.shape != g.shape or rule == "muon" and len(w.shape) < 2:
            raise Wrong(f"{rule} got the shapes {tuple(w.shape)} and {tuple(g.shape)}")
        self._todo[-1] = (rule, f, *self._todo[-1][2:])
        self._state += state * w.shape.numel()
        return n

    def muon(self, w: Value, g: Value) -> Value:
        """The same for a matrix, or a stack of matrices."""
        return self.adamw(w, g, "muon")

    def all_reduce(self, v: Value) -> Value:
        """The sum over all ranks."""
        return self._do("all_reduce", lambda x: x, v, ready=False)

    def reduce_scatter(self, v: Value) -> Value:
        """This rank's rows of the sum over all ranks: of equal number, in the order of the ranks."""
        if isinstance(v, Value) and v.shape[0] % self.world:
            raise Wrong(f"reduce_scatter: {v.shape[0]} rows do not divide among {self.world} ranks; see me.pad")
        return self._do("reduce_scatter", lambda x: x[: len(x) // self.world], v, ready=False)

    def all_gather(self, v: Value) -> Value:
        """The rows of all ranks, in the order of the ranks."""
        return self._do("all_gather", lambda x: torch.cat([x] * self.world), v, ready=False)

    def wait(self, v: Value) -> Value:
        """Wait until a collective has ended; returns its result."""
        v.ready = True
        self._todo.append(("wait", None, (v,), v, 0))
        return v

    def store(self, name: str, w: Value) -> None:
        self._stored[name] = self._do(f"store {name}", lambda x: x, w)


@dataclass
class Played:
    sent: int  # bytes, by the rank that sends most
    state: int  # numbers of optimizer state, of the rank that has most
    ticks: float  # until the last rank has ended
    spans: list  # (rank, what, start, end): backward, adamw, muon, wait, and the collectives


def expected(shapes: dict, world: int, rules: dict, seed: int = 0) -> tuple:
    """(weights, a dict of gradients for each rank, the new weights) by name."""
    draw = torch.Generator().manual_seed(seed)
    numbers = lambda: {k: torch.randn(s, generator=draw, dtype=torch.float64) for k, s in shapes.items()}
    w, grads = numbers(), [numbers() for _ in range(world)]
    return w, grads, {k: RULES[rules[k]][0](w[k], sum(g[k] for g in grads)) for k in shapes}


def play(program, shapes: dict, world: int, rules: dict, seed: int = 0) -> Played:
    """Run the program on every rank. rules: name -> adamw or muon. Wrong if the ranks hang or a weight is not right."""
    ranks = [Rank(r, world, shapes) for r in range(world)]
    for me in ranks:
        program(me)
    calls = [[(i, t) for i, t in enumerate(me._todo) if t[0] in ROUNDS] for me in ranks]
    for n in range(max(map(len, calls))):
        kinds = [f"{c[n][1][0]} of {tuple(c[n][1][2][0].shape)}" if n < len(c) else "nothing" for c in calls]
        if len(set(kinds)) > 1:
            other = next(r for r in range(world) if kinds[r] != kinds[0])
            line = f"collective {n + 1} is {kinds[0]} on rank 0 and {kinds[other]} on rank {other}"
            raise Wrong(f"{line}: a real run hangs")
    weights, grads, wanted = expected(shapes, world, rules, seed)
    clock, at, free, sent, spans, end = [0.0] * world, [0] * world, 0.0, 0, [], {}
    for n in range(len(calls[0]) + 1):
        for r, me in enumerate(ranks):  # up to collective n, which waits for all ranks
            stop = calls[r][n][0] if n < len(calls[r]) else len(me._todo)
            for kind, f, inputs, out, ticks in me._todo[at[r] : stop]:
                began, what = clock[r], kind.split()
                if kind == "wait":
                    clock[r] = max(clock[r], end.get(id(out), 0))
                elif what[0] in ("weight", "backward"):
                    out.data = (weights if what[0] == "weight" else grads[r])[what[1]]
                elif kind not in ROUNDS:
                    out.data = f(*(v.data for v in inputs))
                clock[r] += ticks
                spans += [(r, what[0], began, clock[r])] * (clock[r] > began)
            at[r] = stop
        if n < len(calls[0]):
            now = [c[n][1] for c in calls]
            kind, data = now[0][0], [t[2][0].data for t in now]
            full = torch.cat(data) if kind == "all_gather" else sum(data)
            size = ROUNDS[kind] * 4 * full.numel() * (world - 1) // world
            start = max(free, *clock) if world > 1 else clock[0]
            free = start + ROUNDS[kind] * (world - 1) * LATENCY + size / SPEED
            sent += size
            for r, t in enumerate(now):
                t[3].data = full.chunk(world)[r] if kind == "reduce_scatter" else full
                end[id(t[3])] = free
                spans.append((r, kind, start, free))
    for r, me in enumerate(ranks):
        for name, w in wanted.items():
            got = me._stored[name].data if name in me._stored else None
            line = f"on rank {r} the new {name}"
            if got is None or got.shape != w.shape:
                raise Wrong(f"{line} is {'not stored' if got is None else tuple(got.shape)}, expected {tuple(w.shape)}")
            if not torch.allclose(got, w, atol=1e-9):
                raise Wrong(f"{line} has wrong numbers: it must be what one process makes of the summed gradients")
    return Played(sent, max(me._state for me in ranks), max(clock), spans)
