"""How much less processor time the fast CORE evaluator takes than the plain one, on the mix of 2026-11-23_core-fast.

Profile laptop's model with random weights, one thread, the two in turn on the same examples; the decisions must be equal.

    OMP_NUM_THREADS=1 python results/2026-11-29_core-speed/measure.py eval_bundle.zip 40
"""

import json
import sys
import time
from pathlib import Path

import torch

from gpt2course import core
from gpt2course.core_tasks import read_bundle
from gpt2course.course import lab
from gpt2course.fast import core_fast, kernels
from gpt2course.recipes import PROFILES, make_model, resolve
from gpt2course.runlog import git_commit

HERE = Path(__file__).parent
MIX = ("hellaswag", "arc_easy", "boolq", "bigbench_language_identification", "squad", "lambada_openai", "winograd")


def main(bundle: str, examples: int) -> None:
    sizes = {k: v for k, v in PROFILES["laptop"].items() if k not in ("corpus", "device_batch")}
    tokenizer = lab.tokenizer(sizes["vocab_size"])
    kernels.choose("auto", "cpu", torch.float32, sizes["head_dim"])  # as load_model does
    model = make_model(resolve("jan29", **sizes)).init_weights(1).eval()
    with torch.no_grad():  # the zeros of the output projections would make every choice alike
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    found = read_bundle(bundle)
    rows, total = [], {"plain": 0.0, "fast": 0.0}
    for name in MIX:
        took, answers = {}, {}
        for which, evaluate in (("plain", core.evaluate), ("fast", core_fast.evaluate)):
            began = time.process_time()
            result = evaluate(model, tokenizer, found, max_examples=examples, tasks=[name])
            took[which] = time.process_time() - began
            answers[which] = result["tasks"][name]["accuracy"]
            total[which] += took[which]
        assert answers["plain"] == answers["fast"], (name, answers)
        rows.append(dict(task=name, **took, ratio=took["plain"] / took["fast"]))
        print(rows[-1], flush=True)
    rows.append(dict(task="all", **total, ratio=total["plain"] / total["fast"]))
    made = dict(examples=examples, torch=torch.__version__, threads=torch.get_num_threads(), commit=git_commit())
    (HERE / "speed.jsonl").write_text("".join(json.dumps(row | made) + "\n" for row in rows))
    print(rows[-1])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
