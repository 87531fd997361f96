"""The folders of runs: make one, find one, load its model.

A model is named by its run, by the path of a run or checkpoint folder, or by the path of an exported folder (written by
gpt2course.ops.export). Everything is checked on loading: sha256, names and shapes of tensors, and no NaN or infinity.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpt2course.batches import streams_for
from gpt2course.checkpoint import MODEL, STATE, newest, non_finite, verify
from gpt2course.data import SHARD_CORPORA, Corpus, enough, load_corpus
from gpt2course.fast import kernels
from gpt2course.files import UserError, closest, home, locked, read_json, sha256, write_json
from gpt2course.ranks import Ranks, compute_dtypes, pick_device, started_again
from gpt2course.recipes import Plan, RunSizes, make_model
from gpt2course.runlog import describe_machine, git_commit
from gpt2course.tokenizer import Tokenizer, train_or_load

EXPORT = "gpt2course export"  # "format" in the config.json of an exported folder
SUMS = "SHA256SUMS"  # of an exported folder: one line "<sha256>  <file>" for each file


def open_run(args, folder: Path, sizes: RunSizes, device: torch.device, team: Ranks):
    """(corpus, tokenizer, config) of the run that train.Train `args` asks for; rank 0 first, which makes the folder.

    UserError where the folder holds a run of other settings.
    """
    parts = []

    def make():
        if args.fresh and folder.exists() and not started_again():
            print(f"the earlier run was moved to {move_aside(folder)}")
        parts.append(open_parts(args, sizes, device))
        make_folder(folder, *parts[0][1:])

    team.from_first(make)
    return parts[0] if parts else open_parts(args, sizes, device)


def open_parts(args, sizes: RunSizes, device: torch.device) -> tuple[Corpus, Tokenizer, dict]:
    """(corpus, tokenizer, config.json: all that fixes the numbers of a run, and where it is made), on every rank."""
    name = args.corpus or sizes.corpus
    corpus = load_corpus(name)
    if name in SHARD_CORPORA:  # a number of shards given by name, "climbmix:30", is a decision
        enough(corpus, sizes.plan.tokens)
    elif name.partition(":")[0] not in SHARD_CORPORA:
        name = corpus.name  # the absolute path of your own files
    tokenizer = train_or_load(corpus, sizes.plan.model.vocab_size)
    config = {
        "seed": args.seed,
        "streams": streams_for(len(corpus.train), args.streams),
        "fp8": args.fp8,
        "corpus": name,
        "plan": json.loads(json.dumps(sizes.plan.to_json())),
        "documents": len(corpus.train),
        "val_name": corpus.val_name,
        "val_sha256": corpus.val_sha256,
        "tokenizer_sha256": tokenizer.sha256,
        "dtype": str(compute_dtypes(device, args.dtype)[0]).removeprefix("torch."),
        "device_batch": sizes.device_batch,
        "corpus_notes": list(corpus.notes),
        "machine": describe_machine(device) | {"devices": sizes.devices},
        "commit": git_commit(),
        "command": ["python", "-m", "gpt2course.train", *sys.argv[1:]],
    }
    return corpus, tokenizer, config


def make_folder(folder: Path, tokenizer: Tokenizer, config: dict) -> None:
    """A run's folder with tokenizer/ and config.json; UserError where it holds a run of other settings."""
    if not (folder / "config.json").exists():
        tokenizer.save(folder / "tokenizer")
        write_json(folder / "config.json", config)
        return
    old = run_config(folder)
    fixed = config.keys() - {"corpus_notes", "machine", "commit", "command", "device_batch"}  # the rest must not change
    if different := sorted(k for k in fixed if old.get(k) != config[k]):
        why = f"run {folder.name!r} was started with other settings ({', '.join(different)})"
        raise UserError(f"{why}; use another --name, or --fresh to start again")


def move_aside(folder: Path) -> Path:
    """Rename the folder of an earlier run, unless it is being trained; returns its new path."""
    with locked(folder / "lock", f"run {folder.name!r} is being trained"):
        pass
    aside = next(p for i in range(1, 10**6) if not (p := folder.with_name(f"{folder.name}.old{i}")).exists())
    os.replace(folder, aside)
    return aside


def find_run(name_or_path) -> Path:
    """The folder of a run, from its name, its path, or the path of one of its checkpoints."""
    path = Path(name_or_path)
    if (path / STATE).is_file():  # a checkpoint folder
        path = path.resolve().parent.parent
    for folder in (path, home() / "runs" / str(name_or_path)):
        if (folder / "config.json").is_file():
            return folder
    have = sorted(p.parent.name for p in (home() / "runs").glob("*/config.json"))
    hint = closest(str(name_or_path), have) if have else "python -m gpt2course.train makes one"
    where = f"folder {path} has no config.json" if path.is_dir() else f"there is no run {str(name_or_path)!r}"
    raise UserError(f"{where}; in {home() / 'runs'}: {hint}")


def run_config(name_or_path) -> dict:
    """config.json of a run."""
    config = read_json(find_run(name_or_path) / "config.json", "run configuration")
    if not isinstance(config, dict) or not isinstance(config.get("plan"), dict):
        what = "is not the configuration of a run of gpt2course"
        raise UserError(f"{find_run(name_or_path) / 'config.json'} {what}; give the name of a run or another folder")
    return config


def good_checkpoint(name_or_path) -> tuple[Path, Path]:
    """(run folder, checkpoint folder): the given checkpoint, verified, or the newest good one of a run."""
    run = find_run(name_or_path)
    if (Path(name_or_path) / STATE).is_file():
        verify(name_or_path)
        return run, Path(name_or_path).resolve()
    found = newest(run)
    if found is None:
        raise UserError(f"run {run} has no checkpoint yet; python -m gpt2course.train --name {run.name} continues it")
    return run, found[0]


def load_model(name_or_path, device: str = "auto") -> tuple[torch.nn.Module, Tokenizer, Plan]:
    """(model, tokenizer, plan) of a run's newest good checkpoint, a checkpoint folder, or an exported folder.

    The fastest attention and loss kernels of the device are installed too (fast/kernels.py).
    """
    config, where = run_config(name_or_path), pick_device(device)
    on_gpu = where.type == config.get("machine", {}).get("type") == "cuda"  # a run in float32 there stays in float32
    dtype = "float32" if on_gpu and config.get("dtype") == "float32" else "auto"
    plan, (compute, embed) = Plan.from_json(config["plan"]), compute_dtypes(where, dtype)
    model = make_model(plan, where, compute, embed)
    if config.get("format") == EXPORT:
        folder = weights = find_run(name_or_path)
        verify_exported(folder)
    else:
        folder, weights = good_checkpoint(name_or_path)
    try:
        model.load_state_dict(load_file(weights / MODEL))  # an export may have another dtype
    except (RuntimeError, SafetensorError) as e:  # names or shapes of another model
        problem = str(e).replace("\n", " ")
        raise UserError(f"{weights / MODEL} is not the model of its config.json ({problem}); make it again") from None
    if bad := non_finite(dict(model.named_parameters())):
        raise UserError(f"weight {bad} of {weights} holds NaN or infinity; use an earlier checkpoint, or train again")
    kernels.choose("auto", where, compute, plan.model.head_dim)
    kernels.choose_loss(where, compute)
    return model.eval(), Tokenizer.load(folder / "tokenizer"), plan


def verify_exported(folder: Path) -> None:
    """UserError unless every file of an exported folder has its sha256."""
    file = folder / SUMS
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in sums.keys() | {MODEL, "config.json"}:
        if not (folder / name).is_file() or sha256(folder / name) != sums.get(name):
            raise UserError(f"{folder / name} is missing or differs from {SUMS}; export or download the folder again")
