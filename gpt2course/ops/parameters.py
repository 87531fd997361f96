"""A run of runbooks/speedrun.ipynb: its parameters, checked, and what follows from them. Lesson 14."""

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import torch

from gpt2course import files
from gpt2course.data import SHARD_CORPORA, shards_needed
from gpt2course.files import UserError, closest, coerce, run_folder, shown
from gpt2course.recipes import LADDER, PROFILES, RunSizes, one_of, resolve_run, settings_from_text, within

CLONE = Path(files.__file__).parent.parent


@dataclass(frozen=True)
class Params:
    """The parameters of the runbook; runbooks/README.md explains each."""

    profile: str = one_of(*PROFILES, default="laptop")
    name: str | None = None
    recipe: str = one_of(*LADDER, default="jan29")
    depth: int | None = within(None, 1, 128)
    corpus: str | None = None
    seed: int = within(42, 0, 2**63 - 1)
    devices: int | None = within(None, 1, 1024)
    device_batch: int | None = within(None, 1, 10**6)
    fp8: bool = False
    price_per_hour: float | None = within(None, 0, 1e5)
    max_hours: float | None = within(None, 1e-6, 1e4)
    max_cost_usd: float | None = within(None, 1e-6, 1e6)
    save_minutes: float | None = within(None, 1e-3, 1e4)
    stall_minutes: float = within(10.0, 0.05, 1e4)
    smoke: bool | None = None
    core_bundle: str | None = None
    core_examples: int | None = within(None, 1, 10**6)
    settings: str = ""
    mine: bool = False

    @classmethod
    def check(cls, **given) -> "Params":
        """Parameters from what papermill passes (numbers as text, "None", "true"), coerced to their types."""
        kinds, values = typing.get_type_hints(cls), {}
        if unknown := next((name for name in given if name not in kinds), None):
            own = f"(a variable of your own? Restart the kernel, or `del {unknown}`)"
            raise UserError(f"parameter {unknown} does not exist; {closest(unknown, kinds)} {own}")
        for f in dataclasses.fields(cls):
            value, kind = given.get(f.name), kinds[f.name]
            if type(value) is int and str in (kind, *typing.get_args(kind)):  # `-p name 7` arrives as a number
                value = shown(value)
            value = value.strip() if isinstance(value, str) else value
            if value is None or isinstance(value, str) and value.lower() in ("", "none", "null"):
                continue  # the default
            if isinstance(value, str) and not value.isprintable():
                raise UserError(f"parameter {f.name} = {shown(value)} is not allowed; it must be one line of text")
            values[f.name] = coerce(f"parameter {f.name}", value, kind, **f.metadata)
        if "max_cost_usd" in values and "price_per_hour" not in values:
            raise UserError("parameter max_cost_usd needs price_per_hour, the price of the machine in dollars")
        return cls(**values)

    @classmethod
    def from_namespace(cls, namespace: dict) -> "Params":
        """`check` on the notebook's own variables, `globals()`, before the notebook defines anything else.

        papermill defines a `-p` name that does not exist and only warns. So every plain value whose name is not a
        parameter is refused. Ignored: IPython's own names, papermill's (--inject-paths), modules, functions, objects.
        """
        hidden = namespace["get_ipython"]().user_ns_hidden if "get_ipython" in namespace else ()
        plain = (str, int, float, complex, list, tuple, dict, set, types.NoneType)
        own = {n: v for n, v in namespace.items() if not n.startswith(("_", "PAPERMILL_")) and n not in hidden}
        return cls.check(**{n: v for n, v in own.items() if isinstance(v, plain)})

    def __str__(self) -> str:
        rows = {name: "" if value is None else value for name, value in dataclasses.asdict(self).items()}
        return "\n".join(f"{name:15} {value}".rstrip() for name, value in rows.items())

    def arguments(self, *names: str) -> list[str]:
        """Parameters that are set, as arguments of a command: --max-hours 3."""
        given = {"--" + name.replace("_", "-"): getattr(self, name) for name in names}
        return [x for flag, value in given.items() if value is not None for x in (flag, str(value))]

    @property
    def changes(self) -> list[str]:
        """The settings of the recipe, depth included."""
        return sorted(self.settings.split() + ([] if self.depth is None else [f"depth={self.depth}"]))


@dataclass(frozen=True)
class Run:
    """A run: the parameters and what follows from them."""

    params: Params
    sizes: RunSizes
    name: str
    folder: Path  # home()/runs/<name>
    corpus: str  # "climbmix:182" for climbmix: exactly the shards that this run needs

    def program(self, name: str) -> list[str]:
        """The module that does a command of the core; with `mine`, the one that does it with the learner's pieces."""
        return ["gpt2course.course.mine", name] if self.params.mine else [f"gpt2course.{name}"]


def open_run(params: Params) -> Run:
    """Derive the run from the parameters, make its folder, and print what the run will be."""
    changes, gpus = settings_from_text(params.changes), torch.cuda.device_count()
    sizes = resolve_run(params.recipe, params.profile, changes, params.devices, params.device_batch, gpus)
    plan, model, corpus = sizes.plan, sizes.plan.model, params.corpus or sizes.corpus
    if corpus in SHARD_CORPORA:
        corpus = f"{corpus}:{shards_needed(corpus, plan.tokens)}"
    elif Path(corpus).expanduser().exists():
        corpus = str(Path(corpus).expanduser().absolute())
    own = f"-mine-{digest(pieces())[:6]}" if params.mine else ""  # other pieces are another run
    name = params.name or f"{params.recipe}-d{model.n_layer}{own}"
    run = Run(params, sizes, name, run_folder(name), corpus)
    if own and not params.name and not run.folder.exists() and (others := [*run.folder.parent.glob(f"{name[:-7]}-*")]):
        print(f"the files in work/mine are not those of {others[-1].name}, so this is a new run")
    (run.folder / "stages").mkdir(parents=True, exist_ok=True)
    shape = f"depth {model.n_layer}, width {model.n_embd}, T {model.sequence_len}, vocabulary {model.vocab_size:,}"
    print(f"run {name} in {run.folder}\nrecipe {params.recipe}: {shape}; {plan.params['total']:,} parameters")
    work = f"{plan.steps:,} steps of {plan.batch_tokens:,} tokens = {plan.tokens:,} tokens"
    print(f"{work} of {corpus}, {plan.flops:.3g} FLOPs, on {sizes.devices} device{'s' * (sizes.devices > 1)}")
    return run


def pieces() -> dict[str, str]:
    """The sha256 of each of the learner's pieces, work/mine/<name>.py."""
    return {path.name: files.sha256(path) for path in sorted((CLONE / "work" / "mine").glob("*.py"))}


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
