"""What the stages of the runbook do, in child processes that load torch: `python -m gpt2course.ops.work`. Lesson 14.

Each function takes the request of its stage, which is all that decides the result, and returns the result, both
JSON-able. Not for typing.
"""

import difflib
import json
import os
import time

import tyro

from gpt2course.files import UserError, command, home, write_json
from gpt2course.ops.jobs import EVERY, digest, duration, store

SENTENCE = "In 1969, Apollo 11 landed on the Moon: 384,400 kilometres away, unbelievably far."
EVALUATE_BYTES = 64_000_000  # validation text read at most, since xz -9e reads about 1 MB/s


def do_resolve(r: dict) -> dict:
    import torch

    from gpt2course.ops.preflight import GPUS, shares
    from gpt2course.recipes import PROFILES, resolve, settings_from_text

    if r["profile"] not in PROFILES:
        near = difflib.get_close_matches(r["profile"], PROFILES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"parameter profile = {r['profile']!r} is not allowed; it must be one of {', '.join(PROFILES)}{hint}"
        )
    sizes = dict(PROFILES[r["profile"]])
    corpus, most = sizes.pop("corpus"), sizes.pop("device_batch")
    plan = resolve(r["recipe"], **(sizes | settings_from_text(r["changes"])))
    rows, gpus = plan.batch_tokens // plan.model.sequence_len, torch.cuda.device_count()
    can, there = shares(rows), max(1, min(gpus, GPUS.get(r["profile"], 1)))
    devices = r.get("devices") or max(w for w in can if w <= there)
    wrong = f"parameter devices = {devices} is not allowed"
    if devices not in can:
        by = ", ".join(map(str, can))
        raise UserError(f"{wrong}; the {rows} rows of a batch, from 8 streams, can be shared by {by}")
    if 0 < gpus < devices:
        raise UserError(f"{wrong}; this machine has {gpus} GPUs that torch sees")
    rows //= devices
    device_batch = r.get("device_batch") or max(b for b in range(1, min(most, rows) + 1) if rows % b == 0)
    if rows % device_batch:
        fitting = ", ".join(str(b) for b in range(1, rows + 1) if rows % b == 0)
        what = f"parameter device_batch = {device_batch} is not allowed"
        raise UserError(f"{what}; it must divide the {rows} rows of a batch on each device: {fitting}")
    return {"plan": plan.to_json(), "corpus": corpus, "device_batch": device_batch, "devices": devices, "gpus": gpus}


def do_preflight(r: dict) -> dict:
    from gpt2course.ops import preflight

    return preflight.do_preflight(r)


def _size(split, coming: bool) -> tuple[int, bool]:
    """(UTF-8 bytes of a split, whether that is exact).

    Known; or by the footers of its files, some of which may be `coming`; counted if it is small; else estimated from
    its first blocks.
    """
    if split.bytes is not None:
        return split.bytes, True
    if split.about is not None and (coming or split.about > 100e6):
        return split.about, False
    size = documents = 0
    for b in range(len(split.blocks)):
        texts = split.read_block(b)
        size += sum(len(t.encode("utf-8", "replace")) for t in texts)
        documents += len(texts)
        if size > 100e6:
            return round(size / documents * len(split)), documents == len(split)
    return size, True


def do_data(r: dict) -> dict:
    """The validation shard, the first to train on and CORE's bundle are waited for; other shards come meanwhile."""
    from gpt2course import core_tasks as bundle
    from gpt2course.ops import shards
    from gpt2course.data import load_corpus

    coming = r["corpus"].partition(":")[0] in shards.SHARD_CORPORA
    if coming:
        print(shards.line(shards.ensure(r["corpus"])), flush=True)
    if r["core"]:
        print(f"the bundle of CORE: {bundle.ensure_bundle()}", flush=True)
    corpus = load_corpus(r["corpus"])
    out = {"val_name": corpus.val_name, "val_sha256": corpus.val_sha256, "licences": list(corpus.licences)}
    for role, split in (("training", corpus.train), ("validation", corpus.val)):
        size, exact = _size(split, coming)
        out[role] = {"documents": len(split), "bytes": size, "exact": exact}
    first = [" ".join(corpus.train[i][:300].split()) for i in range(min(3, len(corpus.train)))]
    return out | {"first": first}


def do_tokenizer(r: dict) -> dict:
    from gpt2course.data import load_corpus
    from gpt2course.tokenizer import bytes_per_token, default_folder, train_or_load

    corpus, began = load_corpus(r["corpus"]), time.time()
    folder = default_folder(corpus.name, r["vocab_size"])
    print(f"tokenizer: {r['vocab_size']:,} tokens from {len(corpus.train):,} documents", flush=True)
    t = train_or_load(corpus, r["vocab_size"])
    new = (folder / "tokenizer.json").stat().st_mtime >= began - 1
    ids = t.encode(SENTENCE)
    return {
        "vocab_size": t.vocab_size,
        "sha256": t.sha256,
        "folder": str(folder),
        "how": f"learnt in {time.time() - began:.1f} s" if new else "there already",
        "bytes_per_token": bytes_per_token(t, corpus.val),
        "ids": ids,
        "pieces": [t.decode([i]) for i in ids],
    }


def do_smoke(r: dict) -> dict:
    from gpt2course.ops.smoke import Smoke, smoke

    return smoke(Smoke(**r["args"]))


def do_evaluate(r: dict) -> dict:
    from gpt2course import checkpoint, ranks
    from gpt2course.checkpoint import load_model
    from gpt2course.data import load_corpus
    from gpt2course.evaluate import bits_per_byte, first_bytes, xz_bits_per_byte

    team = ranks.join(checkpoint.pick_device().type)
    corpus = load_corpus(r["corpus"])
    documents = first_bytes(corpus.val, EVALUATE_BYTES)
    model, tokenizer, plan = load_model(str(home() / "runs" / r["checkpoint"]))
    said = time.monotonic()

    def progress(done, total):
        nonlocal said
        if time.monotonic() - said >= EVERY and team.first:
            print(f"{done:,} of {total:,} rows", flush=True)
            said = time.monotonic()

    bpb, size = bits_per_byte(model, documents, tokenizer, plan.model.sequence_len, progress=progress, team=team)
    del model
    if not team.first:
        return {}
    print(f"{size:,} bytes read by the model; now xz -9e", flush=True)
    return {
        "val_bpb": bpb,
        "xz_bpb": xz_bits_per_byte(documents),
        "val_bytes": size,
        "documents": len(documents),
        "whole": len(documents) == len(corpus.val),
        "val_name": corpus.val_name,
        "val_sha256": corpus.val_sha256,
    }


def do_core(r: dict) -> dict:
    from gpt2course import checkpoint, ranks
    from gpt2course.fast import core_fast
    from gpt2course import core as c
    from gpt2course.checkpoint import load_model

    team = ranks.join(checkpoint.pick_device().type)
    bundle = c.read_bundle(r["bundle"] or c.MINI)
    model, tokenizer, _ = load_model(str(home() / "runs" / r["checkpoint"]))
    report = home() / "runs" / r["run"] / "report"
    began = said = time.monotonic()

    def progress(done, total, label):
        nonlocal said
        if time.monotonic() - said >= EVERY and team.first:
            said = time.monotonic()
            left = (said - began) * (total - done) / max(1, done)
            print(f"{done / total:.0%} done, {label}, left {duration(left)}", flush=True)

    keep = report / "core_kept.json", core_fast.fingerprint(model)
    result = core_fast.evaluate(
        model, tokenizer, bundle, max_examples=r["max_examples"], max_len=model.max_len, progress=progress, keep=keep
    )
    if not team.first:
        return {}
    write_json(report / "core.json", result | {"run": r["run"], "step": r["step"], "bundle": r["bundle"] or "mini"})
    return {"result": result, "table": c.table(result), "gpt2": c.GPT2_CENTRED}


def do_samples(r: dict) -> dict:
    from gpt2course.checkpoint import load_model
    from gpt2course.sample import generate

    model, tokenizer, _ = load_model(str(home() / "runs" / r["checkpoint"]))
    how = {name: r[name] for name in ("max_tokens", "temperature", "top_k", "seed")}
    texts = generate(model, tokenizer, r["prompts"], **how)
    return {"prompts": r["prompts"], "texts": [text.removeprefix(prompt) for prompt, text in zip(r["prompts"], texts)]}


def do_export(r: dict) -> dict:
    from gpt2course.ops import export

    return export.do_export(r)


def do_report(r: dict) -> dict:
    from gpt2course import report

    return report.write(r["run"])


STAGES = {
    "resolve": do_resolve,
    "preflight": do_preflight,
    "data": do_data,
    "tokenizer": do_tokenizer,
    "smoke": do_smoke,
    "evaluate": do_evaluate,
    "core": do_core,
    "samples": do_samples,
    "export": do_export,
    "report": do_report,
}


def main(
    stage: tyro.conf.Positional[str], name: str | None = None, began: float | None = None, request: str = "{}"
) -> None:
    """What the runbook starts for a stage; not for typing. Without a run's name its result is printed, else stored.

    Under torchrun every process does its share and the first has the result.

    Args:
        stage: resolve, or a stage.
        name: The run.
        began: Time when the stage was started.
        request: JSON, all that decides the result.
    """
    from gpt2course import ranks

    asked = json.loads(request)
    try:
        result = STAGES[stage](asked)
    finally:
        ranks.part()
    if os.environ.get("RANK", "0") != "0":
        return
    if name is None:
        print(json.dumps(result))
    else:
        store(home() / "runs" / name, stage, digest(asked), result, time.time() - began)


if __name__ == "__main__":
    command(main)
