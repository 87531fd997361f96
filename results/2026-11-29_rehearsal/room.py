"""What torch.compile keeps with other settings of its partitioner, and how many FLOPs it adds. Depth 4, a minute each.

    python results/2026-11-29_rehearsal/room.py      # writes room.jsonl
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tools"), str(HERE.parents[1])]
import rehearse as R  # noqa: E402
import torch  # noqa: E402
import torch._functorch.config as partitioner  # noqa: E402
import torch.nn.functional as F  # noqa: E402

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


WAYS = {
    "as it is": {},
    "aggressive_recomputation": dict(aggressive_recomputation=True),
    "activation_memory_budget 0.9": dict(activation_memory_budget=0.9),
    "activation_memory_budget 0.8": dict(activation_memory_budget=0.8),
    "activation_memory_budget 0.7": dict(activation_memory_budget=0.7),
    "activation_memory_budget 0.5": dict(activation_memory_budget=0.5),
    "relu^2 again in the backward pass": "mlp",
}


def main() -> None:
    R.fake_cuda()
    plain = model.MLP.forward
    with (HERE / "room.jsonl").open("a") as out:
        for recipe in ("jan29", "record"):
            for name, settings in WAYS.items():
                model.MLP.forward = squared if settings == "mlp" else plain
                args = R.Rehearse(recipe, 4, 1, 8, compile=True)
                with partitioner.patch({} if settings == "mlp" else settings):
                    found = R.rehearse(args, 0)
                calls = found["calls"]
                line = {"recipe": recipe, "way": name, "kept_a_layer": found["kept"]["a_layer"], "calls": calls,
                        "peak_bytes": found["peak"]["bytes"], "torch": torch.__version__}  # fmt: skip
                out.write(json.dumps(line) + "\n")
                out.flush()
                print(recipe, name, round(found["kept"]["a_layer"], 2), calls, flush=True)


if __name__ == "__main__":
    main()
