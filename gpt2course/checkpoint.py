"""Checkpoints: written whole or not at all, and checked when read. Lesson 04.

`runs/<name>/checkpoints/step_00001234/` holds model.safetensors, optimizer.safetensors (with the states of the random
number generators) and state.json, which has the loader's position, the clock and the sha256 of every file. Tensors are
stored by name, independent of the number of ranks and of how the optimizer stacks its state. There is no pickle.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gpt2course.files import UserError, atomic_dir, read_json, sha256, write_json

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save(run, step: int, model, optimizer_state: dict, state: dict) -> Path:
    """Write the checkpoint of `step`; returns its folder.

    optimizer_state: the optimizer's state_dict(). state: plain values that a resumed run needs (loader, clock).
    Errors: OSError or SafetensorError where the disk is full; then nothing has changed.
    """
    random = {"rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["rng_cuda"] = torch.cuda.get_rng_state()
    folder = Path(run) / "checkpoints" / f"step_{step:08d}"
    with atomic_dir(folder) as tmp:
        for name, tensors in ((MODEL, model.state_dict()), (OPTIMIZER, optimizer_state | random)):
            save_file({k: v.detach().contiguous() for k, v in tensors.items()}, tmp / name)
        state = json.loads(json.dumps({"step": step} | state))
        sums = {name: sha256(tmp / name) for name in (MODEL, OPTIMIZER)} | {STATE: _digest(state)}
        write_json(tmp / STATE, state | {"sha256": sums})
    return folder


def load(folder, model, optimizer) -> None:
    """Read weights into `model`, its state into `optimizer`, and the states of the random number generators."""
    model.load_state_dict(load_file(Path(folder) / MODEL))
    with safe_open(Path(folder) / OPTIMIZER, "pt") as file:  # tensor by tensor: each rank reads only its own part
        names = set(file.keys())
        torch.set_rng_state(file.get_tensor("rng"))
        if "rng_cuda" in names and torch.cuda.is_available():
            torch.cuda.set_rng_state(file.get_tensor("rng_cuda"))
        optimizer.load_state_dict(names - {"rng", "rng_cuda"}, file.get_tensor)


def _digest(state: dict) -> str:
    """sha256 of a state without its checksums."""
    rest = {k: v for k, v in state.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def non_finite(tensors: dict[str, torch.Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity."""
    return next((name for name, t in tensors.items() if not torch.isfinite(t).all()), None)


# ---- the checkpoints of a run


def all_checkpoints(run) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    return sorted(p for p in (Path(run) / "checkpoints").glob("step_*") if re.fullmatch(r"step_\d{8}", p.name))


def verify(folder) -> dict:
    """The state.json of a checkpoint whose files all have their sha256; UserError if one is missing or damaged."""
    state = read_json(Path(folder) / STATE, "checkpoint state")
    sums = state.get("sha256") if isinstance(state, dict) else None
    for name in (STATE, MODEL, OPTIMIZER):
        path = Path(folder) / name
        found = isinstance(sums, dict) and path.is_file() and (_digest(state) if name == STATE else sha256(path))
        if not found or sums.get(name) != found:
            raise UserError(f"checkpoint file {path} is missing or damaged; use an earlier checkpoint of the run")
    return state


def newest(run, say=print) -> tuple[Path, dict] | None:
    """(folder, state) of the newest checkpoint that verifies; `say` gets a warning for each damaged one.

    None where there is no checkpoint. UserError where all are damaged: only a person should decide to start again.
    """
    folders = all_checkpoints(run)
    for folder in reversed(folders):
        try:
            return folder, verify(folder)
        except UserError as e:
            say(f"warning: {e}")
    if folders:
        which = f"every checkpoint of run {Path(run).name} is damaged ({', '.join(f.name for f in folders)})"
        raise UserError(f"{which}; start the run again with --fresh, which keeps the damaged run beside the new one")
    return None


def tidy(run, step: int, say=print) -> None:
    """Before a run continues from `step`: move later (damaged) checkpoints aside, delete what a killed save left."""
    for folder in all_checkpoints(run):
        if folder.name > f"step_{step:08d}":
            aside = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)
            say(f"{folder.name} was renamed to {aside.name}")
    for litter in [*Path(run).glob("checkpoints/.step_*"), *Path(run).glob(".*.tmp")]:
        shutil.rmtree(litter) if litter.is_dir() else litter.unlink()


def prune(run, keep: int) -> None:
    """Delete all checkpoints but the newest `keep`."""
    for old in all_checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
