"""A trained model as a folder to keep and to share: weights, configuration, tokenizer, model card. Lesson 14.

    python -m gpt2course.ops.export jan29-d24
    python -m gpt2course.sample ~/.cache/gpt2course/runs/jan29-d24/export

sample, evaluate and core_fast take the folder wherever they take the name of a run (load.py reads it).
"""

from pathlib import Path
from typing import Literal

import torch
import tyro
from safetensors.torch import load_file, save_file

import gpt2course
from gpt2course.checkpoint import MODEL, STATE
from gpt2course.files import UserError, atomic_dir, command, duration, read_json, sha256, write_json
from gpt2course.load import EXPORT, SUMS, good_checkpoint, load_model, run_config
from gpt2course.ops.leaderboard import core_result
from gpt2course.recipes import Plan
from gpt2course.runlog import read_metrics

TEXT = "The capital of France is Paris. In 1969, Apollo 11 landed on the Moon, 384,400 kilometres away. My fellow citizens,"
CARD = """# {run}

A base language model with {parameters:,} parameters, trained by the course gpt2course: recipe `{recipe}`, depth {depth}. The
model continues English text. It was not trained to follow instructions.

| | |
|---|---|
| training | step {step:,} of {steps:,}, {tokens:,} tokens, {flops:.4g} FLOPs, {time} |
| hardware | {devices} x {device}, computed in {computed} |
| corpus | {corpus}, validation {val_name} (sha256 {val_sha256}) |
| code | gpt2course {version}, commit {commit}, seed {seed} |
| scores at the end of the run | {scores} |

From a clone of gpt2course:

    python -m gpt2course.sample FOLDER --prompt "The capital of France is"

`config.json` has every setting of the run. `sha256sum -c {sums}` checks the files. The weights are stored in {dtype}.

## Limits

The model states false facts as readily as true ones. It repeats prejudices and personal data of its training text, and
was neither aligned nor filtered. It knows English, and reads at most {length:,} tokens well.

## Licences

The code of gpt2course is under the MIT licence. The training text belongs to others; whether weights are a derived work
of it is not settled in law. Name these sources when you share the model, and respect their conditions:

{licences}
"""


def scores(run: Path) -> str:
    """The last scores of a run, as text."""
    evaluations, core = [line for line in read_metrics(run) if line["kind"] == "eval"], core_result(run)
    found = [f"{line['val_bpb']:.4f} bits per byte" for line in evaluations[-1:]]
    return ", ".join(found + ([f"{core['name']} {core['core']:.4f}"] if core else [])) or "none"


def card(run: Path, config: dict, plan: Plan, dtype: str, state: dict) -> str:
    """The README.md of the folder."""
    log = run / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    licences = sorted({line.partition("licence: ")[2] for line in lines if "licence: " in line})
    machine, step = config["machine"], state["step"]
    return CARD.format(
        run=run.name, parameters=plan.params["total"], recipe=plan.recipe.name, depth=plan.model.n_layer, step=step,
        steps=plan.steps, tokens=step * plan.batch_tokens, flops=step * plan.batch_tokens * plan.flops_per_token,
        time=duration(state["clock"]), devices=machine["devices"], device=machine["device"], computed=config["dtype"],
        corpus=config["corpus"], val_name=config["val_name"], val_sha256=config["val_sha256"], scores=scores(run),
        version=gpt2course.__version__, commit=config["commit"], seed=config["seed"], sums=SUMS, dtype=dtype,
        length=plan.model.sequence_len, licences="\n".join(f"- {line}" for line in licences or ["not recorded"]),
    )  # fmt: skip


@torch.no_grad()
def logits(model, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0]  # (T, V)


def export(run: str, folder="", dtype: str = "bfloat16") -> dict:
    """Write the newest good checkpoint of a run, or the given checkpoint, to `folder` (default: export/ in the run's).

    The folder appears whole, after a check: its model, read back, must predict what the run's rounded weights predict.
    Returns {"folder", "dtype", "bytes", "step", "sha256" of the weights, "max_difference" of a logit by rounding}.
    """
    source, checkpoint = good_checkpoint(run)
    config, state = run_config(source), read_json(checkpoint / STATE)
    out = Path(folder or source / "export").expanduser()
    older = read_json(out / "config.json") if (out / "config.json").is_file() else {}
    if out.exists() and older.get("format") != EXPORT:
        raise UserError(f"{out} exists and is not an exported model; choose a new folder with --folder")
    model, tokenizer, plan = load_model(checkpoint, "cpu")
    ids = tokenizer.encode(TEXT, bos=True)[: plan.model.sequence_len]
    trained = logits(model, ids)
    weights = load_file(checkpoint / MODEL)
    if dtype == "bfloat16":  # vectors and scalars are small, and stay as they are
        weights = {name: t.bfloat16() if t.ndim >= 2 else t for name, t in weights.items()}
    model.load_state_dict(weights)
    rounded = logits(model, ids)
    del model
    with atomic_dir(out) as tmp:
        save_file(weights, tmp / MODEL, metadata={"format": "pt"})
        tokenizer.save(tmp / "tokenizer")
        about = {"format": EXPORT, "model_type": "gpt2course", "gpt2course": gpt2course.__version__, "run": source.name}
        about |= {"step": state["step"], "weights_dtype": dtype, "checkpoint_sha256": state["sha256"][MODEL]}
        write_json(tmp / "config.json", config | about)
        (tmp / "README.md").write_text(card(source, config, plan, dtype, state), encoding="utf-8")
        files = sorted(path for path in tmp.rglob("*") if path.is_file())
        lines = [f"{sha256(path)}  {path.relative_to(tmp).as_posix()}\n" for path in files]
        (tmp / SUMS).write_text("".join(lines), encoding="utf-8")
        read_back = logits(load_model(tmp, "cpu")[0], ids)
        if not torch.allclose(read_back, rounded, rtol=1e-3, atol=1e-3):
            difference = (read_back - rounded).abs().max().item()
            raise UserError(f"the exported model differs from the run's, by {difference:.2g} in a logit; try again")
        size, digest = (tmp / MODEL).stat().st_size, sha256(tmp / MODEL)
    return {"folder": str(out), "dtype": dtype, "bytes": size, "step": state["step"], "sha256": digest,
            "max_difference": (trained - rounded).abs().max().item()}  # fmt: skip


def main(
    run: tyro.conf.Positional[str], folder: str = "", dtype: Literal["bfloat16", "float32"] = "bfloat16", out: Path | None = None
) -> None:  # fmt: skip
    """Export the newest checkpoint of a run as a folder to keep and to share.

    Example: python -m gpt2course.ops.export jan29-d24

    Args:
        run: Name of a run, or path of a run or checkpoint folder.
        folder: Folder to write; default: export in the run's folder. An older export there is replaced.
        dtype: bfloat16 halves the size; float32 keeps the weights exactly as they were trained.
        out: Also write the result to this file, as JSON.
    """
    made = export(run, folder, dtype)
    what = f"{made['bytes'] / 1e9:.3g} GB of weights in {dtype}, sha256 {made['sha256'][:12]}"
    print(f"exported step {made['step']:,} to {made['folder']}: {what}")
    print(f"read back and compared: rounding to {dtype} changes a logit by at most {made['max_difference']:.2g}")
    print(f"try it: python -m gpt2course.sample {made['folder']}")
    if out:
        write_json(out, made)


if __name__ == "__main__":
    command(main)
