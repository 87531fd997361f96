"""karpathy/nanochat as the other side of `python -m gpt2course.bench --against`: imported from the folder $NANOCHAT, none of it is here.

    git clone https://github.com/karpathy/nanochat && git -C nanochat checkout 92d63d4    (for `record`; 348fbb3 for `jan29`)
    pip install filelock
    NANOCHAT=nanochat python -m gpt2course.bench step --against results/2026-11-23_cpu-speed/nanochat.py

The weights are copied by name, the optimizer gets the rates, decays and constants of our plan, and the batches are the same.
With NANOCHAT_ATTENTION=ours it gets our attention kernel in place of its own.
At 348fbb3 the tables of RoPE are bfloat16 on every device, so that losses agree to about three digits only.
"""

import importlib
import os
import subprocess
import sys
from types import SimpleNamespace

import torch

from gpt2course.attention import attention
from gpt2course.files import UserError
from gpt2course.recipes import group_of

FOLDER = os.environ.get("NANOCHAT", "")
if not os.path.isfile(os.path.join(FOLDER, "nanochat", "gpt.py")):
    raise UserError(f"NANOCHAT = {FOLDER!r} is not allowed; it must be a checkout of karpathy/nanochat: git clone https://github.com/karpathy/nanochat")
found = subprocess.run(["git", "-C", FOLDER, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True).stdout.strip()
TOLERANCE = 1e-3
NAME = f"nanochat {os.environ.get('NANOCHAT_COMMIT') or found or 'of unknown commit'}"


def training(plan, weights, device, compute, embed, compile):
    os.environ["NANOCHAT_DTYPE"] = str(compute).removeprefix("torch.")  # read when it is imported
    sys.path.insert(0, FOLDER)
    try:
        gpt, optim = (importlib.import_module(f"nanochat.{name}") for name in ("gpt", "optim"))
    finally:
        sys.path.remove(FOLDER)
    if getattr(gpt, "COMPUTE_DTYPE", compute) != compute:
        raise UserError("nanochat was imported for another dtype in this process")
    for name in () if compile else ("adamw_step_fused", "muon_step_fused"):
        function = getattr(optim, name)
        setattr(optim, name, getattr(function, "_torchdynamo_orig_callable", function))
    if os.environ.get("NANOCHAT_ATTENTION") == "ours":
        gpt.flash_attn.flash_attn_func = lambda q, k, v, causal, window_size: attention(q, k, v, window_size)
    m = plan.model
    with torch.device("meta"):
        model = gpt.GPT(gpt.GPTConfig(m.sequence_len, m.vocab_size, m.n_layer, m.n_head, m.n_kv_head, m.n_embd, m.window_pattern))
    model.to_empty(device=device)
    model.init_weights()
    if not hasattr(gpt, "COMPUTE_DTYPE"):  # 348fbb3
        global TOLERANCE
        TOLERANCE = 2e-2
    if not hasattr(gpt, "COMPUTE_DTYPE") and compute == torch.float32:
        for e in (model.transformer.wte, *model.value_embeds.values()):
            e.to(torch.float32)
    params = {name.replace("transformer.h.", "blocks.").replace("transformer.", ""): p for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(weights[name])
    groups = []
    for name, settings in plan.groups.items():
        members = [p for n, p in params.items() if group_of(n) == name]
        for shape in sorted({p.shape for p in members}) if settings["kind"] == "muon" else [None]:
            group = settings | {"params": [p for p in members if shape in (None, p.shape)]}
            if settings["kind"] == "adamw":
                group["betas"] = group.pop("beta1"), group.pop("beta2")
            else:
                group["momentum"] = 0.95
            groups += [group] if group["params"] else []
    optimizer = optim.MuonAdamW(groups)
    base = [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    forward = torch.compile(model, dynamic=False) if compile else model
    context = torch.autocast(device.type, torch.bfloat16, enabled=not hasattr(gpt, "COMPUTE_DTYPE") and compute == torch.bfloat16)

    def loss(idx, targets):
        with context:
            return forward(idx, targets)

    def step(lr, momentum, weight_decay):
        for g, (rate, decay) in zip(optimizer.param_groups, base):
            g["lr"] = rate * lr
            if g["kind"] == "muon":
                g["momentum"], g["weight_decay"] = momentum, decay * weight_decay
        optimizer.step()
        model.zero_grad(set_to_none=True)

    return SimpleNamespace(loss=loss, step=step, params=params)
