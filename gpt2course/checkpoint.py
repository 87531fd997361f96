"""Checkpoints: written whole or not at all, checked when read, independent of how the optimizer stacks its state.

`runs/<name>/checkpoints/step_00001234/` holds model.safetensors, optimizer.safetensors (with the states of the random
number generators) and state.json, which carries the loader's position, the clock and the sha256 of everything. There
is no pickle anywhere.
"""

import hashlib
import json
import os
import re
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from gpt2course.fast.kernels import choose
from gpt2course.files import UserError, atomic_dir, home, read_json, sha256, write_json
from gpt2course.runlog import read_metrics

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
EARLIER = "an earlier checkpoint of the run is used where there is one"
EXPORT = "gpt2course export"  # what the config.json of an exported folder has as its format; see export.py


def _digest(state: dict) -> str:
    """sha256 of a state apart from its checksums."""
    rest = {k: v for k, v in state.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def snapshot(step: int, model, optimizer_state: dict, state: dict) -> dict:
    """All that a checkpoint holds, copied to the CPU's memory, to be written while the next steps change the originals.

    optimizer_state: its state_dict(). state: JSON-able; whatever else a resumed run needs (loader, clock).
    """

    def copies(tensors):
        return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}

    random = {"rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["rng_cuda"] = torch.cuda.get_rng_state()
    state = json.loads(json.dumps({"step": step} | state))
    return {MODEL: copies(model.state_dict()), OPTIMIZER: copies(optimizer_state) | random, STATE: state}


def write(run_dir, taken: dict) -> Path:
    """Write what `snapshot` took; returns the checkpoint's folder.

    Errors: OSError or SafetensorError where the disk is full; then nothing has changed.
    """
    state = taken[STATE]
    folder = Path(run_dir) / "checkpoints" / f"step_{state['step']:08d}"
    with atomic_dir(folder) as tmp:
        for name in (MODEL, OPTIMIZER):
            save_file(taken[name], tmp / name)
        sums = {name: sha256(tmp / name) for name in (MODEL, OPTIMIZER)}
        write_json(tmp / STATE, state | {"sha256": sums | {STATE: _digest(state)}})
    return folder


def save(run_dir, step: int, model, optimizer_state: dict, state: dict) -> Path:
    """Write the checkpoint of `step` and wait for it: see snapshot and write."""
    return write(run_dir, snapshot(step, model, optimizer_state, state))


def non_finite(tensors: dict[str, torch.Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity."""
    return next((name for name, t in tensors.items() if not torch.isfinite(t).all()), None)


def all_checkpoints(run_dir) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    return sorted(p for p in (Path(run_dir) / "checkpoints").glob("step_*") if re.fullmatch(r"step_\d{8}", p.name))


def verify(folder) -> dict:
    """The state.json of a checkpoint after checking every file's sha256; UserError if one is missing or damaged."""
    folder = Path(folder)
    state = read_json(folder / STATE, "checkpoint state")
    sums = state.get("sha256") if isinstance(state, dict) else None
    for name in (STATE, MODEL, OPTIMIZER):
        path = folder / name
        if not path.is_file():
            raise UserError(f"checkpoint file {path} is missing; {EARLIER}")
        found = None  # what the file's checksum is, where there is one to compare it with
        if isinstance(sums, dict):
            found = _digest(state) if name == STATE else sha256(path)
        if found is None or found != sums.get(name):
            raise UserError(f"checkpoint file {path} is damaged; {EARLIER}")
    return state


def newest(run_dir, say=print) -> tuple[Path, dict] | None:
    """The newest checkpoint that verifies, with its state; damaged ones are passed over, and `say` is told so.

    None where there is no checkpoint. UserError where there are some and all are damaged: to begin anew is a decision.
    """
    folders = all_checkpoints(run_dir)
    for folder in reversed(folders):
        try:
            return folder, verify(folder)
        except UserError as e:
            say(f"warning: {e}")
    if folders:
        which = f"every checkpoint of run {Path(run_dir).name} is damaged ({', '.join(f.name for f in folders)})"
        raise UserError(f"{which}; `--fresh` trains it anew and keeps the damaged one beside")
    return None


def tidy(run_dir, step: int, say=print) -> None:
    """Before a run goes on from `step`: set later (damaged) checkpoints aside, delete what a killed save left."""
    for folder in all_checkpoints(run_dir):
        if folder.name > f"step_{step:08d}":
            aside = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder, aside)
            say(f"{folder.name} was set aside as {aside.name}")
    for litter in [*Path(run_dir).glob("checkpoints/.step_*"), *Path(run_dir).glob(".*.tmp")]:
        shutil.rmtree(litter) if litter.is_dir() else litter.unlink()


class Keeper:
    """Writes a run's checkpoints in a thread, beside the next steps; keeps the newest `keep` and the best. On rank 0.

    good: the last checkpoint that can be trusted, (folder, state), None if there is none yet.
    """

    def __init__(self, run: Path, log, keep: int, keep_best: bool, good: tuple[Path, dict] | None):
        self.run, self.log, self.keep, self.keep_best, self.good = run, log, keep, keep_best, good
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.close = self.thread.shutdown  # waits for the one that is being written
        self.writing = None  # (future, where the run was, seconds that it held the run up)

    def write(self, taken: dict, progress: dict, began: float) -> None:
        """Begin to write what `snapshot` took when the run was at `progress`. began: when it was held up for that."""
        try:
            self.log.flush()  # a checkpoint vouches for the metrics up to its step
            future = self.thread.submit(self._write, taken)
        except OSError as e:
            future = Future()
            future.set_exception(e)
        self.writing = future, progress, time.perf_counter() - began

    def _write(self, taken: dict) -> tuple[Path, dict, float]:
        began = time.perf_counter()
        return write(self.run, taken), taken[STATE], time.perf_counter() - began

    @property
    def ready(self) -> bool:
        """Whether the one that was being written has come to its end."""
        return self.writing is not None and self.writing[0].done()

    def finish(self) -> str | None:
        """Wait for the checkpoint that is being written, if there is one; returns what went wrong with it."""
        if self.writing is None:
            return None
        (future, at, held), self.writing = self.writing, None
        try:
            folder, state, took = future.result()
        except (OSError, SafetensorError) as e:
            last = f"the last good one is {self.good[0]}" if self.good else "there is none yet"
            return f"the checkpoint of step {at['step']} could not be saved ({e}); {last}. Make room in {self.run}"
        self.good = folder, state
        where = str(folder.relative_to(self.run))
        self.log.write(kind="checkpoint", **at, path=where, took=round(held, 3), written=round(took, 3))
        self.prune()
        return None

    def prune(self) -> None:
        """Delete all checkpoints but the newest `keep` and the best."""
        best = best_step(self.run) if self.keep_best else None
        for old in all_checkpoints(self.run)[: -self.keep]:
            if old.name != f"step_{best or 0:08d}":
                shutil.rmtree(old, ignore_errors=True)


def best_step(run: Path) -> int | None:
    """The step of the checkpoint whose evaluation during training gave the lowest bpb; None before the first one."""
    have = {p.name for p in all_checkpoints(run)}
    evals = [m for m in read_metrics(run) if m["kind"] == "eval"]
    same = [m for m in evals if m["val_bytes"] == evals[0]["val_bytes"]]  # the last one may be on more text
    found = [(m["val_bpb"], m["step"]) for m in same if f"step_{m['step']:08d}" in have]
    return min(found)[1] if found else None


def load(folder, model, optimizer=None) -> None:
    """Read weights, and optimizer state with the random number generators where an optimizer is given."""
    model.load_state_dict(load_file(Path(folder) / MODEL))
    if optimizer is not None:
        with safe_open(Path(folder) / OPTIMIZER, "pt") as file:  # tensor by tensor: each rank takes its part of each
            names = set(file.keys())
            torch.set_rng_state(file.get_tensor("rng"))
            if "rng_cuda" in names and torch.cuda.is_available():
                torch.cuda.set_rng_state(file.get_tensor("rng_cuda"))
            optimizer.load_state_dict(names - {"rng", "rng_cuda"}, file.get_tensor)


def pick_device(name: str = "auto") -> torch.device:
    """cuda if there is one, else mps, else cpu; or the one asked for. MPS results may differ from the CPU's."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(d for d in ("cuda", "mps", "cpu") if available[d])
    if not available.get(name.split(":")[0], False):
        have = ", ".join(d for d, ok in available.items() if ok)
        raise UserError(f"device {name!r} is not available; this machine has {have}")
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
        what = f"there is no run {name_or_path!r}"
        if path.is_dir():
            what = f"folder {path} has no config.json, so it is neither a run nor an exported model"
        runs = f"runs in {home() / 'runs'}: {', '.join(have) or 'none yet'}"
        raise UserError(f"{what}; {runs}. `python -m gpt2course.train` makes one")
    return found


def run_config(name_or_path: str) -> dict:
    """config.json of a run."""
    return read_json(run_dir(name_or_path) / "config.json", "run configuration")


def good_checkpoint(name_or_path: str) -> tuple[Path, Path]:
    """(run folder, checkpoint folder): a run's newest good checkpoint, or the checkpoint folder given, verified."""
    run = run_dir(name_or_path)
    if (Path(name_or_path) / STATE).is_file():
        verify(name_or_path)
        return run, Path(name_or_path).resolve()
    found = newest(run)
    if found is None:
        mend = f"`python -m gpt2course.train --name {run.name}` goes on with it"
        raise UserError(f"run {run} has no good checkpoint yet; {mend}")
    return run, found[0]


def load_model(name_or_path: str, device: str = "auto"):
    """(model, tokenizer, plan) of a run's newest good checkpoint, of a checkpoint's folder, or of an exported folder.

    The attention kernel is chosen with it (attention.choose). A folder with released GPT-2 weights (model.safetensors,
    vocab.json, merges.txt) is read too, and with `transformers` installed the folder of any other causal language
    model; their plan is None.
    """
    from gpt2course.recipes import Plan, make_model
    from gpt2course.tokenizer import Tokenizer

    about, where = Path(name_or_path) / "config.json", pick_device(device)
    compute, embed = compute_dtypes(where)
    said = read_json(about) if about.is_file() else {"model_type": "gpt2"}
    if not isinstance(said, dict) or not {"plan", "model_type", "format"} & said.keys():
        what = f"{about} is neither the configuration of a run of gpt2course nor of a model"
        raise UserError(
            f"{what}: it has no plan, no model_type and no format; give the name of a run, or another folder"
        )
    if said.get("format") == EXPORT:
        from gpt2course.ops import export

        return _with_kernel(*export.load(name_or_path, device))
    kind = said.get("model_type")  # a run's own config.json has none
    if kind == "gpt2" and (about.parent / "vocab.json").is_file():
        return *_load_released(name_or_path, where, compute), None
    if kind is not None and about.is_file():
        from gpt2course.ops import hf

        return *hf.load(name_or_path, where, compute), None
    run, folder = good_checkpoint(name_or_path)
    plan = Plan.from_json(run_config(str(run))["plan"])
    model = make_model(plan, where, compute, embed)
    load(folder, model)
    return _with_kernel(model.eval(), Tokenizer.load(run / "tokenizer"), plan)


def _load_released(path: str, device: torch.device, dtype: torch.dtype):
    from gpt2course.gpt2 import load_released, load_tokenizer

    model, tokenizer = load_released(path, dtype).to(device).eval(), load_tokenizer(path)
    ours, theirs = tokenizer.vocab_size, model.config.vocab_size
    if ours > theirs:
        what = f"{path}: its tokenizer has {ours} tokens, its model {theirs}"
        raise UserError(f"{what}; they do not belong together: download both again")
    return model, tokenizer


def _with_kernel(model, tokenizer, plan):
    choose("auto", next(model.parameters()).device, model.compute_dtype, plan.model.head_dim)
    return model, tokenizer, plan
