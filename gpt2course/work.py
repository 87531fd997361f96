"""What the stages of the runbook do, in child processes that load torch: `python -m gpt2course.work`, not for typing. Lesson 14.

Each function takes the request of its stage, which is all that decides the result, and returns the result, both JSON-able.
"""

import contextlib
import difflib
import json
import os
import platform
import re
import shutil
import time
from pathlib import Path

import tyro

from gpt2course.files import UserError, command, home, write_json
from gpt2course.jobs import EVERY, digest, duration, store

SENTENCE = "In 1969, Apollo 11 landed on the Moon: 384,400 kilometres away, unbelievably far."
EVALUATE_BYTES = 64_000_000  # validation text read at most, since xz -9e reads about 1 MB/s


def do_resolve(r: dict) -> dict:
    from gpt2course.recipes import PROFILES, resolve, settings_from_text

    if r["profile"] not in PROFILES:
        near = difflib.get_close_matches(r["profile"], PROFILES, n=1)
        raise UserError(f"parameter profile = {r['profile']!r} is not allowed; it must be one of {', '.join(PROFILES)}" + (f"; did you mean {near[0]}?" if near else ""))
    sizes = dict(PROFILES[r["profile"]])
    corpus, device_batch = sizes.pop("corpus"), sizes.pop("device_batch")
    plan = resolve(r["recipe"], **(sizes | settings_from_text(r["changes"])))
    rows = plan.batch_tokens // plan.model.sequence_len
    device_batch = max(b for b in range(1, min(device_batch, rows) + 1) if rows % b == 0)
    return {"plan": plan.to_json(), "corpus": corpus, "device_batch": device_batch}


def memory_available() -> int | None:
    """Bytes of memory that a new process may take, by /proc and by the limit of the container; None where neither tells."""
    read = lambda path: Path(path).read_text()  # noqa: E731
    found = []
    with contextlib.suppress(OSError, TypeError):
        found.append(int(re.search(r"MemAvailable:\s+(\d+)", read("/proc/meminfo"))[1]) * 1024)
    for limit, used, stat, idle in (("memory.max", "memory.current", "memory.stat", "inactive_file"),
                                    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file")):  # fmt: skip
        with contextlib.suppress(OSError, ValueError, TypeError):
            cache = int(re.search(rf"(?m)^{idle} (\d+)", read(f"/sys/fs/cgroup/{stat}"))[1])  # given back when it is wanted
            found.append(int(read(f"/sys/fs/cgroup/{limit}")) - int(read(f"/sys/fs/cgroup/{used}")) + cache)
    return min(found) if found else None


def do_preflight(r: dict) -> dict:
    import torch

    from gpt2course.checkpoint import compute_dtypes, pick_device
    from gpt2course.cost import hours, memory_estimate, peak_flops
    from gpt2course.data import load_corpus
    from gpt2course.train import describe_machine

    findings, plan = [], r["plan"]
    say = lambda level, what, text: findings.append((level, what, text))  # noqa: E731
    model, device = plan["model"], pick_device()
    say("ok", "python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    old = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 11)
    say("STOP" if old else "ok", "torch", torch.__version__ + ("; this course needs 2.11 or newer: make setup" if old else ""))
    name = describe_machine(device)["device"]
    slow = device.type != "cuda" and r["profile"] != "laptop"
    say("warning" if slow else "ok", "device", f"{device} ({name}), {str(compute_dtypes(device)[0]).removeprefix('torch.')}"
        + (f"; profile {r['profile']} is made for CUDA and will be very slow here: use profile laptop" if slow else ""))  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    few = threads < cores and threads < 4 and device.type == "cpu"
    say("warning" if few else "ok", "threads", f"{threads} of {cores} cores" + ("; unset OMP_NUM_THREADS to use them all" if few else ""))
    bytes_each = 2 if device.type == "cuda" else 4
    m = memory_estimate(plan["params"], B=r["device_batch"], T=model["sequence_len"], n_layer=model["n_layer"], n_embd=model["n_embd"], vocab_size=model["vocab_size"],
                        matrix_optimizer=plan["recipe"]["matrix_optimizer"], embed_bytes=4 if plan["recipe"]["architecture"] == "gpt2" else bytes_each,
                        compute_bytes=bytes_each, compiled=device.type == "cuda")  # fmt: skip
    free, need = (torch.cuda.mem_get_info(device)[0], m.total * 1.1) if device.type == "cuda" else (memory_available(), m.total * 1.1 + 0.5e9)
    if free is None:
        say("ok", "memory", f"the run needs about {need / 1e9:.1f} GB; what is free is unknown on this system")
    else:
        mend = "" if free > 1.25 * need else "; close other programs, or choose a smaller depth or device batch"
        say("STOP" if free < need else "warning" if mend else "ok", "memory", f"{free / 1e9:.1f} GB free, training needs about {need / 1e9:.1f} GB{mend}")
    home().mkdir(parents=True, exist_ok=True)
    disk, need = shutil.disk_usage(home()).free, 3 * (m.weights + m.optimizer) + 0.2e9  # two checkpoints and one being written
    mend = "" if disk > 2 * need else "; make room, or set GPT2COURSE_HOME to another disk"
    say("STOP" if disk < need else "warning" if mend else "ok", "disk", f"{disk / 1e9:.1f} GB free in {home()}, the run needs about {need / 1e9:.1f} GB{mend}")
    try:
        corpus = load_corpus(r["corpus"])
        say("ok", "corpus", f"{r['corpus']}: {len(corpus.train):,} documents to train on, {len(corpus.val):,} to validate")
    except UserError as e:
        say("STOP", "corpus", str(e))
    if r["bundle"]:
        from gpt2course.bundle import read_bundle

        try:
            bundle = read_bundle(r["bundle"])
            say("ok", "bundle", f"{bundle.name}, {len(bundle.labels)} tasks, baselines {bundle.baselines}")
        except UserError as e:
            say("STOP", "bundle", str(e))
    peak = peak_flops(name) if device.type == "cuda" else None
    if peak:
        time_ = hours(plan["flops"], 1, peak, 0.4)
        say("ok", "time", f"about {time_:.2f} hours at 40 % of this device's peak" + (f", ${time_ * r['price']:.2f}" if r["price"] is not None else ""))
    if r["price"] is None:
        say("ok", "cost", "not counted: give price_per_hour, the price of the machine in dollars")
    return {"findings": findings, "device": str(device), "torch": torch.__version__}


def _size(split) -> tuple[int, bool]:
    """(UTF-8 bytes of a split, whether that is exact): known, counted if it is small, else estimated from its first blocks."""
    if split.bytes is not None:
        return split.bytes, True
    size = documents = 0
    for b in range(len(split.blocks)):
        texts = split.read_block(b)
        size, documents = size + sum(len(t.encode("utf-8", "replace")) for t in texts), documents + len(texts)
        if size > 100e6:
            return round(size / documents * len(split)), documents == len(split)
    return size, True


def do_data(r: dict) -> dict:
    from gpt2course.data import load_corpus

    corpus, out = load_corpus(r["corpus"]), {}
    for role, split in (("training", corpus.train), ("validation", corpus.val)):
        size, exact = _size(split)
        out[role] = {"documents": len(split), "bytes": size, "exact": exact}
    first = [" ".join(corpus.train[i][:300].split()) for i in range(min(3, len(corpus.train)))]
    return out | {"val_name": corpus.val_name, "val_sha256": corpus.val_sha256, "licences": list(corpus.licences), "first": first}


def do_tokenizer(r: dict) -> dict:
    from gpt2course.data import load_corpus
    from gpt2course.tokenizer import bytes_per_token, default_folder, train_or_load

    corpus, began = load_corpus(r["corpus"]), time.time()
    folder = default_folder(corpus.name, r["vocab_size"])
    print(f"tokenizer: {r['vocab_size']:,} tokens from {len(corpus.train):,} documents", flush=True)
    t = train_or_load(corpus, r["vocab_size"])
    new = (folder / "tokenizer.json").stat().st_mtime >= began - 1
    ids = t.encode(SENTENCE)
    return {"vocab_size": t.vocab_size, "sha256": t.sha256, "folder": str(folder), "bytes_per_token": bytes_per_token(t, corpus.val), "ids": ids,
            "how": f"learnt in {time.time() - began:.1f} s" if new else "there already", "pieces": [t.decode([i]) for i in ids]}  # fmt: skip


def do_evaluate(r: dict) -> dict:
    from gpt2course.checkpoint import load_model
    from gpt2course.data import load_corpus
    from gpt2course.evaluate import bits_per_byte, first_bytes, xz_bits_per_byte

    corpus = load_corpus(r["corpus"])
    documents = first_bytes(corpus.val, EVALUATE_BYTES)
    model, tokenizer, plan = load_model(str(home() / "runs" / r["checkpoint"]))
    said = time.monotonic()

    def progress(done, total):
        nonlocal said
        if time.monotonic() - said >= EVERY:
            print(f"{done:,} of {total:,} rows", flush=True)
            said = time.monotonic()

    bpb, size = bits_per_byte(model, documents, tokenizer, plan.model.sequence_len, progress=progress)
    del model
    print(f"{size:,} bytes read by the model; now xz -9e", flush=True)
    return {"val_bpb": bpb, "xz_bpb": xz_bits_per_byte(documents), "val_bytes": size, "documents": len(documents),
            "whole": len(documents) == len(corpus.val), "val_name": corpus.val_name, "val_sha256": corpus.val_sha256}  # fmt: skip


def do_core(r: dict) -> dict:
    from gpt2course import core as c
    from gpt2course import core_fast
    from gpt2course.checkpoint import load_model

    bundle = c.read_bundle(r["bundle"] or c.MINI)
    model, tokenizer, _ = load_model(str(home() / "runs" / r["checkpoint"]))
    report = home() / "runs" / r["run"] / "report"
    began = said = time.monotonic()

    def progress(done, total, label):
        nonlocal said
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            print(f"{done / total:.0%} done, {label}, left {duration((said - began) * (total - done) / max(1, done))}", flush=True)

    keep = report / "core_kept.json", core_fast.fingerprint(model)
    result = core_fast.evaluate(model, tokenizer, bundle, max_examples=r["max_examples"], max_len=model.max_len, progress=progress, keep=keep)
    write_json(report / "core.json", result | {"run": r["run"], "step": r["step"], "bundle": r["bundle"] or "mini"})
    return {"result": result, "table": c.table(result), "gpt2": c.GPT2_CENTRED}


def do_samples(r: dict) -> dict:
    from gpt2course.checkpoint import load_model
    from gpt2course.sample import generate

    model, tokenizer, _ = load_model(str(home() / "runs" / r["checkpoint"]))
    texts = generate(model, tokenizer, r["prompts"], max_tokens=r["max_tokens"], temperature=r["temperature"], top_k=r["top_k"], seed=r["seed"])
    return {"prompts": r["prompts"], "texts": [text.removeprefix(prompt) for prompt, text in zip(r["prompts"], texts)]}


STAGES = {"resolve": do_resolve, "preflight": do_preflight, "data": do_data, "tokenizer": do_tokenizer, "evaluate": do_evaluate,
          "core": do_core, "samples": do_samples}  # fmt: skip


def main(stage: tyro.conf.Positional[str], name: str | None = None, began: float | None = None, request: str = "{}") -> None:
    """What the runbook starts for a stage; not for typing. Without a run's name the result is printed, else stored in the run.

    Args:
        stage: resolve, or a stage.
        name: The run.
        began: Time when the stage was started.
        request: JSON, all that decides the result.
    """
    asked = json.loads(request)
    result = STAGES[stage](asked)
    if name is None:
        print(json.dumps(result))
    else:
        store(home() / "runs" / name, stage, digest(asked), result, time.time() - began)


if __name__ == "__main__":
    command(main)
