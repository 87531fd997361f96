"""Checkpoints: written whole or not at all, checked when read, independent of how the optimizer stacks its state.

`runs/<name>/checkpoints/step_00001234/` holds model.safetensors, optimizer.safetensors and state.json, which carries the
loader's position, the clock and the sha256 of the other two. No pickle anywhere.
"""

import os
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gpt2course.files import UserError, atomic_dir, home, read_json, sha256, write_json
from gpt2course.model import GPT

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save(run_dir, step: int, model, optimizer, state: dict, keep: int = 2) -> Path:
    """Write the checkpoint of `step` and delete all but the newest `keep`; returns its folder.

    state: JSON-able; whatever else a resumed run needs (loader, clock).
    """
    folder = Path(run_dir) / "checkpoints" / f"step_{step:08d}"
    with atomic_dir(folder) as tmp:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}, tmp / MODEL)
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in optimizer.state_dict().items()}
        save_file(tensors | {"rng": torch.get_rng_state()}, tmp / OPTIMIZER)
        write_json(tmp / STATE, {"step": step, "sha256": {name: sha256(tmp / name) for name in (MODEL, OPTIMIZER)}} | state)
    for old in all_checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def all_checkpoints(run_dir) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    return sorted(p for p in (Path(run_dir) / "checkpoints").glob("step_*") if re.fullmatch(r"step_\d{8}", p.name))


def verify(folder) -> dict:
    """The state.json of a checkpoint after checking every file's sha256; UserError if one is missing or damaged."""
    state = read_json(Path(folder) / STATE, "checkpoint state")
    for name, expected in state.get("sha256", {MODEL: None, OPTIMIZER: None}).items():
        path = Path(folder) / name
        if not path.is_file() or sha256(path) != expected:
            raise UserError(f"checkpoint file {path} is {'damaged' if path.is_file() else 'missing'}; delete the folder {folder} to go on from the one before")
    return state


def newest(run_dir, say=print) -> tuple[Path, dict] | None:
    """The newest checkpoint that verifies, with its state; damaged ones are passed over, and `say` is told so."""
    for folder in reversed(all_checkpoints(run_dir)):
        try:
            return folder, verify(folder)
        except UserError as e:
            say(f"warning: {e}")
    return None


def load(folder, model, optimizer=None) -> None:
    """Read weights, and optimizer state with the random number generator where an optimizer is given."""
    model.load_state_dict(load_file(Path(folder) / MODEL))
    if optimizer is not None:
        state = load_file(Path(folder) / OPTIMIZER)
        torch.set_rng_state(state.pop("rng"))
        optimizer.load_state_dict(state)


def pick_device(name: str = "auto") -> torch.device:
    """cuda if there is one, else mps, else cpu; or the one asked for. MPS results may differ from the CPU's."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(d for d in ("cuda", "mps", "cpu") if available[d])
    if not available.get(name.split(":")[0], False):
        raise UserError(f"device {name!r} is not available; this machine has {', '.join(d for d, ok in available.items() if ok)}")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(name)


def compute_dtypes(device: torch.device, name: str = "auto") -> tuple[torch.dtype, torch.dtype]:
    """(compute dtype, embedding dtype): bfloat16 on GPUs that have it, as the recipe's runs, float32 elsewhere."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8 else "float32"
    if name not in ("float32", "bfloat16"):
        raise UserError(f"dtype {name!r} is not allowed; auto, float32 or bfloat16")
    dtype = getattr(torch, name)
    return dtype, dtype


def run_dir(name_or_path: str) -> Path:
    """The folder of a run: a path if it exists, else a name under home()/runs."""
    path = Path(name_or_path)
    if not (path / "config.json").is_file() and (path / STATE).is_file():
        return path.resolve().parent.parent  # a checkpoint folder of a run
    found = next((p for p in (path, home() / "runs" / name_or_path) if (p / "config.json").is_file()), None)
    if found is None:
        have = sorted(p.parent.name for p in (home() / "runs").glob("*/config.json"))
        raise UserError(f"there is no run {name_or_path!r}; runs in {home() / 'runs'}: {', '.join(have) or 'none yet'}. `python -m gpt2course.train` makes one")
    return found


def run_config(name_or_path: str) -> dict:
    """config.json of a run."""
    return read_json(run_dir(name_or_path) / "config.json", "run configuration")


def load_model(name_or_path: str, device: str = "auto"):
    """(model, tokenizer, plan) of a run's newest good checkpoint, or of the checkpoint folder given; for evaluation."""
    from gpt2course.recipes import Plan
    from gpt2course.tokenizer import Tokenizer

    run = run_dir(name_or_path)
    plan = Plan.from_json(run_config(str(run))["plan"])
    if (Path(name_or_path) / STATE).is_file():
        folder = Path(name_or_path)
        verify(folder)
    else:
        found = newest(run)
        if found is None:
            raise UserError(f"run {run} has no good checkpoint yet; `python -m gpt2course.train --name {run.name}` goes on with it")
        folder = found[0]
    where = pick_device(device)
    compute, embed = compute_dtypes(where)
    model = GPT(plan.model, compute, embed)
    load(folder, model)
    return model.to(where).eval(), Tokenizer.load(run / "tokenizer"), plan
