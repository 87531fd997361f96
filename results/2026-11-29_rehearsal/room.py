"""What torch.compile keeps with other ways to recompute, and the work that each adds. Depth 4, a minute each.

    python results/2026-11-29_rehearsal/room.py      # writes room.jsonl
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tools"), str(HERE.parents[1])]
import rehearse as R  # noqa: E402
import torch  # noqa: E402
import torch._functorch.config as partitioner  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from gpt2course import model  # noqa: E402


class Squared(torch.autograd.Function):
    """relu(h)^2 W^T that keeps h alone, by computing relu(h)^2 again in the backward pass."""

    @staticmethod
    def forward(ctx, h, weight):
        ctx.save_for_backward(h, weight)
        return F.linear(F.relu(h).square(), weight)

    @staticmethod
    def backward(ctx, dy):
        h, weight = ctx.saved_tensors
        r = F.relu(h)
        return 2 * r * (dy @ weight), dy.flatten(0, -2).t() @ r.square().flatten(0, -2)


def squared(self, x):
    return Squared.apply(self.c_fc(x), self.c_proj.weight.to(x.dtype))


def checkpointed(self, x):
    """torch.utils.checkpoint around relu^2 and the second product: the first product's output is kept alone."""
    after = lambda h: self.c_proj(F.relu(h).square())
    return checkpoint(after, self.c_fc(x), use_reentrant=False)


def norm_again(x):
    return checkpoint(lambda x: F.rms_norm(x, (x.size(-1),)), x, use_reentrant=False)


WAYS = {  # name: (settings of the partitioner, MLP.forward, norm), None for the package's
    "as it is": ({}, None, None),
    "budget 0.9": (dict(activation_memory_budget=0.9), None, None),
    "budget 0.5": (dict(activation_memory_budget=0.5), None, None),
    "aggressive_recomputation": (dict(aggressive_recomputation=True), None, None),
    "checkpoint of relu^2": ({}, checkpointed, None),
    "checkpoint of relu^2 and norms": ({}, checkpointed, norm_again),
    "relu^2 as an autograd function": ({}, squared, None),
}


def main() -> None:
    R.fake_cuda()
    plain, plain_norm = model.MLP.forward, model.norm
    (HERE / "room.jsonl").write_text("")
    for recipe in ("jan29", "record"):
        base = None
        for name, (settings, mlp, norm) in WAYS.items():
            model.MLP.forward, model.norm = mlp or plain, norm or plain_norm
            args = R.Rehearse(recipe, 4, 1, 8, compile=True, memory=1e9)
            chosen = SimpleNamespace(patch=lambda settings=settings, **_: partitioner.patch(settings))
            with mock.patch.object(R, "partitioner", chosen):
                found = R.rehearse(args, 0)
            again = sum(n for op, n in found["calls"]["backward"].items() if op == "gpt2course.fa4")
            line = {
                "recipe": recipe, "way": name, "kept_a_layer": found["kept"]["a_layer"], "calls": found["calls"],
                "attention_again": again / found["calls"]["forward"]["gpt2course.fa4"], "pointwise": found["pointwise"],
                "peak_bytes": found["peak"]["bytes"], "torch": torch.__version__, "commit": R.git_commit(),
            }  # fmt: skip
            base = base or line
            products = lambda x: sum(n for op, n in x["calls"]["backward"].items() if "mm" in op)
            line["products_again"] = products(line) - products(base)
            line["pointwise_added"] = line["pointwise"]["backward"] / base["pointwise"]["backward"] - 1
            with (HERE / "room.jsonl").open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(recipe, name, *(round(line[k], 3) for k in ("kept_a_layer", "products_again", "attention_again", "pointwise_added")), flush=True)


if __name__ == "__main__":
    main()
