"""Losses of CORE prompts longer than T, of our model and of karpathy/nanochat with the same weights, in float64.

    NANOCHAT=nanochat python results/2026-11-29_longer-than-T/parity.py eval_bundle.zip    # a checkout of 92d63d4

A layer with a long window sees T tokens back in nanochat. For comparison the same losses are measured with a window of
the whole past, which this course had before. Writes parity.json.
"""

import json
import os
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "2026-11-23_cpu-speed"), str(HERE.parents[1])]
os.environ["NANOCHAT_DTYPE"] = "float32"  # nanochat knows no float64; `theirs` changes it after the import
import nanochat as adapter  # noqa: E402 - the file of that folder, which imports no nanochat yet

from gpt2course import core  # noqa: E402
from gpt2course.core_tasks import read_bundle  # noqa: E402
from gpt2course.data import load_corpus  # noqa: E402
from gpt2course.model import GPT  # noqa: E402
from gpt2course.recipes import resolve  # noqa: E402
from gpt2course.tokenizer import train_or_load  # noqa: E402

TASKS, EXAMPLES, T = ("squad", "bigbench_language_identification"), 8, 512


def ours():
    """A model with random weights everywhere, so that attention matters."""
    plan = resolve("record", depth=4, width=128, head_dim=32, sequence_len=T, vocab_size=512, batch_tokens=T, steps=1)
    model = GPT(plan.model, torch.float64, torch.float64).double().init_weights(5).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.3, generator=generator)
        for block in model.blocks:
            for linear in (block.attn.c_proj, block.mlp.c_proj):
                linear.weight.normal_(0, 0.2, generator=generator)
    return plan, model


def theirs(plan, model):
    """nanochat's model with our weights and our RoPE tables."""
    sys.modules.pop("nanochat", None)  # the adapter has the same name
    sys.path.insert(0, adapter.FOLDER)
    from nanochat import gpt

    gpt.COMPUTE_DTYPE = torch.float64
    m = plan.model
    other = gpt.GPT(gpt.GPTConfig(m.sequence_len, m.vocab_size, m.n_layer, m.n_head, m.n_kv_head, m.n_embd, m.window_pattern))
    other.init_weights()
    other.double().eval()
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.copy_(weights[name.replace("transformer.h.", "blocks.").replace("transformer.", "")])
    cos, sin = model.rope(other.rotary_seq_len, "cpu")
    other.cos, other.sin = cos[None, :, None], sin[None, :, None]
    return other


@torch.no_grad()
def losses(forward, bundle, tokenizer) -> dict:
    """Mean loss of each right answer whose prompt is longer than T."""
    found = {}
    for task in bundle.tasks:
        if task.label not in TASKS:
            continue
        shuffled, n = core.sampled(task)
        for i in range(n):
            prompts = core.render(shuffled, i, core.few_shot(shuffled, i))
            rows, spans = core.tokens_and_spans(task.kind, prompts, tokenizer)
            right = 0 if task.kind == "language_modeling" else shuffled.examples[i]["gold"]
            if T < len(rows[right]) <= 10 * T:
                found.setdefault(task.label, []).append(core.score(forward, [rows[right]], [spans[right]], tokenizer.bos)[0][0])
            if len(found.get(task.label, [])) == EXAMPLES:
                break
    return found


def main(path: str) -> None:
    plan, model = ours()
    other = theirs(plan, model)
    tokenizer, bundle = train_or_load(load_corpus("embedded"), 512), read_bundle(path)
    named = {"nanochat": losses(other, bundle, tokenizer), "ours": losses(model, bundle, tokenizer)}
    for block in model.blocks:
        if block.attn.window[0] >= T:
            block.attn.window = (-1, 0)
    named["whole past"] = losses(model, bundle, tokenizer)
    far = lambda a, b: {t: max(abs(x - y) for x, y in zip(a[t], b[t])) for t in a}
    differ = {name: far(named[name], named["nanochat"]) for name in ("ours", "whole past")}
    print(json.dumps(differ, indent=1))
    (HERE / "parity.json").write_text(json.dumps({"differences": differ, "losses": named}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
