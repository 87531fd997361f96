"""A trained model as a folder that outlives its run: weights, configuration, tokenizer, model card, checksums. Lesson
14.

    python -m gpt2course.ops.export jan29-d24
    python -m gpt2course.sample ~/.cache/gpt2course/runs/jan29-d24/export

sample, core and evaluate take the folder wherever they take a run's name. Loading maps the file into memory and does
not read it: token and value embeddings stay in the file, of which only the rows of the tokens at hand are ever fetched;
the matrices alone are held, once, in the dtype they are used in. At depth 24 that is 2.9 GB in float32 on a CPU (3.1 GB
with PyTorch, measured), whatever the size of the tables; mapped pages come on top, which the system gives up when
memory is short.
"""

import json
import os
import re
from pathlib import Path

import torch
import tyro
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import gpt2course
from gpt2course import report
from gpt2course.ops import jobs
from gpt2course.checkpoint import EXPORT, MODEL, STATE, compute_dtypes, good_checkpoint, pick_device, run_config
from gpt2course.files import UserError, atomic_dir, command, home, read_json, sha256, write_json
from gpt2course.gpt2 import VARIANT, GPT2Config, load_released
from gpt2course.recipes import Plan, build
from gpt2course.sample import Sample
from gpt2course.tokenizer import Tokenizer

VERSION = 1
SUMS = "SHA256SUMS"
NEEDED = ("config.json", MODEL, "tokenizer/tokenizer.json", "tokenizer/ranks.tiktoken")
DTYPES = ("bfloat16", "float32")
TEXT = "The capital of France is Paris. In 1969, Apollo 11 landed on the Moon: 384,400 kilometres away. My fellow citizens, the state of the union is"
KL_MOST = 0.01  # nats per token; rounding to bfloat16 costs some 1e-5
AGAIN = "copy the folder again, or make it again from the run: python -m gpt2course.ops.export RUN"


# ---- reading


def mapped(plan: Plan, path, device, compute) -> torch.nn.Module:
    """The model of a plan with the weights of a safetensors file in our own layout, for evaluation.

    A tensor that is stored as it is used stays mapped from the file; the others are cast one by one. UserError where
    the file's tensors are not those of the plan.
    """
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            model = build(
                plan.model, compute, file.get_tensor("wte.weight").dtype if "wte.weight" in names else torch.float32
            )
            want = model.state_dict()  # on the meta device: names, shapes and dtypes
            wrong = [f"tensor {n} is missing" for n in want if n not in names] + [
                f"tensor {n} does not belong to it" for n in sorted(names - want.keys())
            ]
            wrong += [
                f"tensor {n} has shape {found}, expected {list(w.shape)}"
                for n, w in want.items()
                if n in names and (found := file.get_slice(n).get_shape()) != list(w.shape)
            ]
            if wrong:
                raise UserError(
                    f"{path} does not hold the model that its config.json describes: {'; '.join(wrong[:3])}; {AGAIN}"
                )
            model.load_state_dict({n: file.get_tensor(n).to(device, w.dtype) for n, w in want.items()}, assign=True)
    except SafetensorError as e:
        raise UserError(f"{path} is no whole safetensors file ({e}); {AGAIN}") from None
    return model.eval()


def verify(folder) -> dict:
    """The config.json of an exported folder, after checking the sha256 of all that is needed to run the model;
    UserError names what is wrong."""
    folder = Path(folder)
    config = read_json(folder / "config.json", "configuration of an exported model")
    if not isinstance(config, dict) or config.get("format") != EXPORT:
        raise UserError(f"{folder} is no model that this course exported; python -m gpt2course.ops.export RUN makes one")
    if config.get("format_version") != VERSION:
        raise UserError(
            f"{folder} has format version {config.get('format_version')!r}, this package reads {VERSION}; use the version of gpt2course that made it ({config.get('gpt2course')})"
        )
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"exported model {folder} has no readable {SUMS}; {AGAIN}") from None
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in NEEDED:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; {AGAIN}")
        if sha256(path) != sums.get(name):
            raise UserError(f"{path} is not what {SUMS} says, so it is damaged or was changed; {AGAIN}")
    return config


def load(folder, device: str = "auto") -> tuple[torch.nn.Module, Tokenizer, Plan]:
    """(model, tokenizer, plan) of an exported folder, everything checked; for evaluation. checkpoint.load_model calls
    it."""
    folder, config, where = Path(folder), verify(folder), pick_device(device)
    plan, compute = Plan.from_json(config["plan"]), compute_dtypes(where)[0]
    gpt2 = plan.recipe.architecture == "gpt2"
    model = load_released(folder, compute).to(where) if gpt2 else mapped(plan, folder / MODEL, where, compute)
    return model.eval(), Tokenizer.load(folder / "tokenizer"), plan


# ---- what is written


def rounded(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """As it is exported. bfloat16: all but vectors and scalars; float32: as it was trained."""
    return tensor.bfloat16() if dtype == "bfloat16" and tensor.ndim >= 2 else tensor


def weights(path, plan: Plan, dtype: str) -> dict[str, torch.Tensor]:
    """name -> tensor of a checkpoint as it is exported.

    The model of 2019 gets the names and the (in, out) matrices of the released GPT-2 weights, which transformers reads.
    """
    out, gpt2 = {}, plan.recipe.architecture == "gpt2"
    with safe_open(path, "pt") as file:
        for name in file.keys():
            tensor = rounded(file.get_tensor(name), dtype)
            if gpt2:
                tensor = tensor.T if name.startswith("blocks.") and tensor.ndim == 2 else tensor
                name = "transformer." + re.sub(r"^blocks\.", "h.", name)
            out[name] = tensor.contiguous()
    return out


def released_config(c: GPT2Config, bos: int) -> dict:
    """What transformers wants to know of a GPT-2."""
    return VARIANT | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": c.vocab_size, "n_positions": c.sequence_len, "n_embd": c.n_embd,
                      "n_layer": c.n_layer, "n_head": c.n_head, "bos_token_id": bos, "eos_token_id": bos, "tie_word_embeddings": True,
                      "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip


def huggingface_tokenizer(t: Tokenizer) -> dict:
    """The same tokenizer in the form of Hugging Face's `tokenizers`: Tokenizer.from_file(".../tokenizer.json").

    There a merge is a pair of tokens, here it is any two neighbours that make a token, so every way to cut a token is
    listed. Runs of more than 16,384 white-space characters are cut here and not there.
    """
    seen = [
        *range(33, 127),
        *range(161, 173),
        *range(174, 256),
    ]  # bytes that stand for themselves; the others from U+0100 on, as GPT-2's files write them
    character = {b: chr(b) for b in seen} | {
        b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in seen)
    }
    text = lambda token: "".join(character[b] for b in token)  # noqa: E731
    known = set(t.ranks)
    merges = [
        (text(token[:i]), text(token[i:]))
        for token in t.ranks
        for i in range(1, len(token))
        if token[:i] in known and token[i:] in known
    ]
    split = {"type": "Split", "pattern": {"Regex": t.pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "ignore_merges": True, "vocab": {text(token): i for i, token in enumerate(t.ranks)} | t.special, "merges": [list(pair) for pair in merges]}  # fmt: skip
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "post_processor": None, "decoder": level, "model": model}  # fmt: skip


MODERN_ONLY = """There is no export to the formats of GPT-2 or Llama, and so none for llama.cpp, vLLM or transformers: value embeddings, the softcap on the
logits, the residual and x0 scalars, RMSNorm without weights, QK-norm and squared ReLU are not in those architectures. The model needs the code of
gpt2course (model.py, about 300 lines of PyTorch), or that code written again elsewhere."""
GPT2_TOO = """This is the architecture of 2019, so `model.safetensors` and `config.json` are also in the format of the released GPT-2 models:

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")

Begin every text with the token <|bos|>, as in training. Inside a text transformers reads the names of special tokens as those tokens; this package reads them as text."""


def held(plan: Plan) -> int:
    """Bytes of the weights in memory on a CPU: all but the embedding tables, in float32; those of GPT-2 too, as its
    head is one of them."""
    return 4 * (
        plan.params["total"]
        if plan.recipe.architecture == "gpt2"
        else plan.params["total"] - plan.params["wte"] - plan.params["value_embeds"]
    )


def table(head, rows) -> str:
    return report.to_markdown("", [("table", head, rows)], {}).split("\n\n", 1)[1].rstrip()


def card(f: dict, plan: Plan, dtype: str, step: int, tokens: int, flops: float, check: dict, size: int) -> str:
    """README.md of the folder: what the model is, how it was made, what it can do and what it cannot. f: report.gather
    of the run."""
    e, m, c = report.markdown_text, plan.model, f["config"]
    machine, gpt2 = c.get("machine", {}), plan.recipe.architecture == "gpt2"
    made = [
        ("recipe", f"{plan.recipe.name}, depth {m.n_layer}, width {m.n_embd}, {m.n_head} heads, T {m.sequence_len}, vocabulary {m.vocab_size:,}"),
        ("parameters", f"{plan.params['total']:,}, of them {plan.params['scaling']:,} scaling (weights of matrix products)"),
        ("training", f"step {step:,} of {plan.steps:,}: {tokens:,} tokens, {flops:.4g} FLOPs"),
        ("time", f"{jobs.duration(f['train_seconds'])} of training, {jobs.duration(f['total'])} in all"),
        ("cost", report.cost_words(f)), ("hardware", f"{machine.get('devices', 1)} x {machine.get('device')}, computed in {c.get('dtype')}"),
        ("versions", ", ".join(f"{k} {machine[k]}" for k in ("gpt2course", "torch", "python", "cuda", "driver", "system") if machine.get(k))),
        ("commit", c.get("commit")), ("seed", c.get("seed")), ("validation text", f"{c.get('val_name')}, sha256 {c.get('val_sha256')}"), ("corpus", c.get("corpus")),
    ]  # fmt: skip
    scores = [report.bpb_words(f), report.core_words(f)]
    if step != f["metrics"][-1]["step"]:
        scores.insert(
            0,
            f"These are the scores of the end of the run, step {f['metrics'][-1]['step']:,}; the weights here are of step {step:,} and were not scored.",
        )
    tasks = (
        table(*report.task_table(f["core"])[1:]) + "\n\n" + "\n".join(f"- {e(note)}" for note in f["core"]["notes"])
        if f["core"]
        else ""
    )
    text = (
        "\n".join(f"  - {e(line)}" for line in f["licences"])
        or "  - not recorded in the run's log: find it out before you pass the model on"
    )
    return f"""# {e(f["name"])}

A base language model of {plan.params["total"]:,} parameters, trained by the course gpt2course with the recipe `{e(plan.recipe.name)}` at depth {m.n_layer}. It continues
English text. It was not trained to follow instructions or to hold a conversation.

## How it was made

{table(("what", "value"), made)}

All numbers of the run stand in `config.json`.

## What it scores

{chr(10).join(f"{e(line)}{chr(10)}" for line in scores)}
{tasks}

## How to use it

From a clone of gpt2course in which `make setup` was run, with FOLDER for the folder of this file:

    python -m gpt2course.sample FOLDER --prompt "The capital of France is"
    python -m gpt2course.core FOLDER
    python -m gpt2course.evaluate FOLDER --corpus embedded

It runs on a CPU. The weights take {report.size_words(size)} on disk in {dtype}; on a CPU {report.size_words(held(plan))} of them are held in memory, as float32, and
{"" if gpt2 else "of the embedding tables only the rows that are needed are read from the file. "}PyTorch itself takes some 0.5 GB more.
Reasonable settings: temperature {Sample.temperature}, top-k {Sample.top_k}.
The scores above are those of the weights as they were trained. The folder was checked by loading it back: on a short English text its
predictions differ from the run's own by {check["kl"]:.2g} nats per token (KL divergence).
`sha256sum -c {SUMS}` checks every file.

`tokenizer/` is the form that gpt2course reads (`ranks.tiktoken` is tiktoken's), `tokenizer.json` the same for Hugging Face's `tokenizers`.

{GPT2_TOO if gpt2 else MODERN_ONLY}

## Limits

- It states falsehoods as readily as facts. Nothing that it writes should be believed without a check, and nothing should be decided by it.
- It has learnt the prejudices, the insults and the errors of its training text, and was not corrected afterwards: no alignment, no filter, no safety training.
- It may repeat passages of its training text word for word, names and addresses of people included.
- It knows English and little else, and nothing that was written after its training text. It reads at most {m.sequence_len:,} tokens well.
- Its scores have the noise that the intervals show; another seed gives another model.

## Licences

- The code of gpt2course is under the MIT licence.
- The training text:
{text}
- These weights were made by whoever trained them, who decides on their licence, within what the licences of the text allow. See LICENSE.md.
"""


LICENCE = """# Licences

The code that made and reads this model is gpt2course, under the MIT licence.

The model was trained on text that belongs to others, as the log of the run has it:

{text}

Whether weights are a derived work of the text that they were trained on is not settled in law. The careful reading: name the sources
above whenever you pass on these weights or what they write; where a licence asks for sharing alike (CC BY-SA), pass them on under the same;
where it forbids commercial use (CC BY-NC), do not use them commercially. The weights carry no warranty of any kind.
"""


# ---- the export


@torch.no_grad()
def logits(model, ids: list[int]) -> torch.Tensor:
    """(T, V) in float32 on the CPU."""
    return model(torch.tensor([ids]))[0]


def export(run: str, out=None, dtype: str = "bfloat16") -> dict:
    """Write the newest good checkpoint of a run (or the checkpoint folder given) to `out`, by default the run's folder
    export/.

    The folder is written whole or not at all, after it was loaded back and its predictions found to be those of the
    run's weights with the same rounding, and within KL_MOST of those without. An older export there is replaced; a
    folder that holds anything else is refused.
    Returns {"folder", "dtype", "bytes", "step", "sha256" (of model.safetensors), "kl" (nats per token),
    "max_difference" (of logits)}.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype = {dtype!r} is not allowed; it must be {' or '.join(DTYPES)}")
    folder, source = good_checkpoint(run)
    config, state = run_config(str(folder)), read_json(source / STATE, "checkpoint state")
    if config.get("format") == EXPORT:
        raise UserError(f"{run} is an exported folder already; give the name of a run")
    plan, out = Plan.from_json(config["plan"]), Path(out or folder / "export").expanduser().absolute()
    if (
        out.is_file()
        or out.is_dir()
        and any(out.iterdir())
        and not ((out / SUMS).is_file() and EXPORT in (out / "config.json").read_text(encoding="utf-8"))
    ):
        raise UserError(f"{out} holds something else; give a new or an empty folder with --out")
    tokenizer, facts = Tokenizer.load(folder / "tokenizer"), report.gather(folder)
    gpt2, step, tokens = plan.recipe.architecture == "gpt2", state["step"], state["step"] * plan.batch_tokens
    flops = tokens * plan.flops_per_token
    ids = tokenizer.encode(TEXT, bos=True)[: plan.model.sequence_len]
    model = mapped(plan, source / MODEL, "cpu", torch.float32)
    ours = logits(model, ids)
    model.load_state_dict({n: rounded(t, dtype).to(t.dtype) for n, t in model.state_dict().items()}, assign=True)
    expected = logits(model, ids)
    del model
    about = config | {
        "format": EXPORT, "format_version": VERSION, "model_type": "gpt2course", "gpt2course": gpt2course.__version__, "run": folder.name, "dtype": dtype,
        "trained_dtype": config.get("dtype"),
        "recipe": plan.recipe.name, "step": step, "tokens": tokens, "flops": flops, "seconds": state["clock"], "checkpoint_sha256": state["sha256"][MODEL],
        "generation": {"temperature": Sample.temperature, "top_k": Sample.top_k, "max_tokens": Sample.max_tokens, "bos": tokenizer.bos},
    } | (released_config(plan.model, tokenizer.bos) if gpt2 else {})  # fmt: skip
    with atomic_dir(out) as tmp:
        save_file(weights(source / MODEL, plan, dtype), tmp / MODEL, metadata={"format": "pt"})
        write_json(tmp / "config.json", about)
        tokenizer.save(tmp / "tokenizer")
        for path, mode in (
            (tmp / MODEL, 0o644),
            (tmp, 0o755),
            (tmp / "tokenizer", 0o755),
        ):  # made for this user alone, but meant to be shared
            os.chmod(path, mode)
        (tmp / "tokenizer.json").write_text(
            json.dumps(huggingface_tokenizer(tokenizer), ensure_ascii=False), encoding="utf-8"
        )
        if gpt2:
            bos = next(iter(tokenizer.special))
            write_json(
                tmp / "tokenizer_config.json",
                {
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "bos_token": bos,
                    "eos_token": bos,
                    "clean_up_tokenization_spaces": False,
                },
            )
        sums(tmp, NEEDED)
        theirs = logits(load(tmp, "cpu")[0], ids)  # as anyone will read it
        p = ours.double().log_softmax(-1)
        kl = (p.exp() * (p - theirs.double().log_softmax(-1))).sum(-1).mean().item()
        check = {"kl": max(0.0, kl), "max_difference": (ours - theirs).abs().max().item()}
        given_up = f"the export of {folder.name} was given up: "
        if not (theirs - expected).abs().max() <= 1e-3 * expected.std():
            raise UserError(
                f"{given_up}read back, its predictions are not those of the run's weights in {dtype}; check the disk of {out}, then do it again"
            )
        if not kl <= KL_MOST:
            raise UserError(
                f"{given_up}rounded to {dtype}, its predictions differ from the run's by {kl:.3g} nats per token, more than {KL_MOST}; try --dtype float32"
            )
        size = (tmp / MODEL).stat().st_size
        (tmp / "README.md").write_text(card(facts, plan, dtype, step, tokens, flops, check, size), encoding="utf-8")
        text = (
            "\n".join(f"- {line}" for line in facts["licences"])
            or "- not recorded: find it out before you pass the model on"
        )
        (tmp / "LICENSE.md").write_text(LICENCE.format(text=text), encoding="utf-8")
        sums(tmp)
        digest = sha256(tmp / MODEL)
    return {"folder": str(out), "dtype": dtype, "bytes": size, "step": step, "sha256": digest} | check


def sums(folder: Path, names=None) -> None:
    """Write SHA256SUMS, in the form of sha256sum, of the files named or of all."""
    names = names or sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    (folder / SUMS).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names), encoding="utf-8")


def do_export(r: dict) -> dict:
    """The stage of the runbook: {"checkpoint": "<run>/checkpoints/step_...", "dtype"} or {"run"}, and "out" if it is to
    lie elsewhere."""
    run = str(home() / "runs" / r["checkpoint"]) if r.get("checkpoint") else r["run"]
    return export(run, r.get("out"), r.get("dtype", "bfloat16"))


def main(run: tyro.conf.Positional[str], out: str = "", dtype: str = "bfloat16") -> None:
    """Export a run's newest checkpoint as a folder to keep, to run on a laptop and to share: weights, configuration,
    tokenizer, model card, checksums.

    Example: python -m gpt2course.ops.export jan29-d24

    Args:
        run: Name of a run, or path of a run or checkpoint folder.
        out: Folder to write; default: export in the run's folder. An older export there is replaced.
        dtype: bfloat16 halves the size and changes predictions by a hair; float32 keeps the weights exactly as they
        were trained.
    """
    made = export(run, out or None, dtype)
    print(
        f"exported step {made['step']:,} to {made['folder']}: {made['bytes'] / 1e9:.3g} GB of weights in {dtype}, sha256 {made['sha256'][:12]}"
    )
    print(
        f"read back and compared with the run: KL divergence {made['kl']:.2g} nats per token, largest difference of a logit {made['max_difference']:.2g}"
    )
    print(f"try it: python -m gpt2course.sample {made['folder']}")


if __name__ == "__main__":
    command(main)
