"""The parameters of the runbook, as papermill and people pass them: checked before anything is done. Lesson 14."""

import contextlib
import dataclasses
import difflib
import re
import types
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from gpt2course.files import RUN_NAME, RUN_NAME_ALLOWED, UserError, shown
from gpt2course.ops.jobs import ask

STAGES = ("preflight", "data", "tokenizer", "smoke", "train", "evaluate", "core", "samples", "export", "report")
NOTHING = ("", "none", "null")
CORPUS_ALLOWED = "embedded, climbmix, fineweb-edu, or the path of a file or folder of parquet, jsonl or txt"


def _refuse(name: str, value, allowed: str):
    raise UserError(f"parameter {name} = {shown(value)} is not allowed; it must be {allowed}")


def _text(name: str, value, pattern: str = r"\S.*", allowed: str = "text") -> str:
    if isinstance(value, (bool, float)) or not isinstance(value, (str, int)):  # -p name 7 arrives as a number
        _refuse(name, value, allowed)
    text = value.strip() if isinstance(value, str) else shown(value)
    if not re.fullmatch(pattern, text) or not text.isprintable():
        _refuse(name, value, allowed)
    return text


def _number(name: str, value, low: float, high: float, whole: bool = False):
    """A number from `low` to `high`, given as such or as text ("04", "1e-4", "1_000"), read exactly; no bool."""
    allowed = f"a {'whole ' * whole}number from {low} to {high}"
    if isinstance(value, str) and "," in value:
        allowed += ", written without commas"
    number = Decimal("nan")
    if isinstance(value, (str, int, float)):  # str(True) is no number
        with contextlib.suppress(InvalidOperation, ValueError):  # ValueError: an int of too many digits
            number = Decimal(str(value).strip())
    if not number.is_finite() or not low <= number <= high or whole and number != int(number):
        _refuse(name, value, allowed)
    return int(number) if whole else float(number)


def _flag(name: str, value) -> bool:
    """True or False, given as such or as text: papermill makes True of "True" and leaves "true" as it is."""
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    return text == "true" if text in ("true", "false") else _refuse(name, value, "true or false")


def _settings(value) -> str:
    """Recipe settings as "name=value name=value", their form checked; recipes.resolve checks names and values."""
    allowed = 'text like "steps=100 matrix_lr=0.03": name=value, separated by spaces, without spaces inside'
    pairs = value.split() if isinstance(value, str) else _refuse("settings", value, allowed)
    names = [pair.split("=", 1)[0] for pair in pairs if re.fullmatch(r"[a-z]\w*=\S+", pair)]
    if len(names) != len(pairs) or len(set(names)) != len(names):
        _refuse("settings", value, allowed + (", each name once" if len(names) == len(pairs) else ""))
    return " ".join(pairs)


@dataclass(frozen=True)
class Params:
    """The parameters of the runbook, checked.

    `Params.check` takes what papermill really passes: numbers as text, "None", "true".
    """

    profile: str = "laptop"  # sizes for a machine: laptop, 1gpu or 8xh100
    name: str | None = None  # name of the run; default: <recipe>-d<depth>
    recipe: str = "jan29"  # a recipe of the ladder
    depth: int | None = None  # layers; default: the profile's
    corpus: str | None = None  # embedded, climbmix, fineweb-edu, or a path; default: the profile's
    seed: int = 42  # of the initial weights
    devices: int | None = None  # processes, a GPU each; default: 1, and with 8xh100 all GPUs that can share the batch
    device_batch: int | None = None  # rows of T tokens in one forward pass; default: the profile's
    fp8: bool = False  # matrix products of the blocks in 8 bits, on an H100 and newer
    price_per_hour: float | None = None  # of the machine, in dollars
    max_hours: float | None = None  # stop training with a checkpoint after so long at work, whatever it did in it
    max_cost_usd: float | None = None  # the same for its cost; needs price_per_hour
    save_minutes: float | None = None  # between checkpoints; default: 10, on a laptop 1
    stall_minutes: float = 5.0  # training without a sign of life is started again after so long
    smoke: bool | None = None  # a small run first; default: not on a laptop
    core_bundle: str | None = None  # folder or zip of an evaluation bundle, or mini; default: mini on a laptop
    core_examples: int | None = None  # at most so many examples a task (a quick, biased look); default: all
    settings: str = ""  # recipe settings, as name=value name=value
    force_stage: str | None = None  # do this stage again
    resolved: dict = field(default_factory=dict, repr=False, compare=False)  # what recipes.py makes of them

    @classmethod
    def check(cls, **given) -> "Params":
        """Parameters as papermill passes them, coerced and checked.

        A UserError names the parameter, the value and what is allowed.
        """
        known = [f.name for f in dataclasses.fields(cls) if f.name != "resolved"]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                own = f"(a variable of your own? Restart the kernel, or `del {name}`)"
                raise UserError(f"parameter {name} does not exist; {hint} {own}")
        default = {f.name: f.default for f in dataclasses.fields(cls)}
        value = {}
        for name in known:
            v = given.get(name, default[name])
            v = None if isinstance(v, str) and v.strip().lower() in NOTHING else v
            value[name] = default[name] if v is None else v
        rules = {
            "profile": lambda n, v: _text(n, v),
            "name": lambda n, v: _text(n, v, RUN_NAME, RUN_NAME_ALLOWED),
            "recipe": lambda n, v: _text(n, v),
            "depth": lambda n, v: _number(n, v, 1, 128, whole=True),
            "corpus": lambda n, v: _text(n, v, allowed=CORPUS_ALLOWED),
            "seed": lambda n, v: _number(n, v, 0, 2**63 - 1, whole=True),
            "devices": lambda n, v: _number(n, v, 1, 1024, whole=True),
            "device_batch": lambda n, v: _number(n, v, 1, 1_000_000, whole=True),
            "fp8": _flag,
            "price_per_hour": lambda n, v: _number(n, v, 0, 100_000),
            "max_hours": lambda n, v: _number(n, v, 1e-6, 10_000),
            "max_cost_usd": lambda n, v: _number(n, v, 1e-6, 1_000_000),
            "save_minutes": lambda n, v: _number(n, v, 1e-3, 10_000),
            "stall_minutes": lambda n, v: _number(n, v, 0.05, 10_000),
            "smoke": _flag,
            "core_bundle": lambda n, v: _text(n, v, allowed="mini, or the path of a folder or zip with core.yaml"),
            "core_examples": lambda n, v: _number(n, v, 1, 1_000_000, whole=True),
            "settings": lambda n, v: _settings(v),
            "force_stage": lambda n, v: _text(n, v, "|".join(STAGES), f"one of {', '.join(STAGES)}, or None"),
        }
        value |= {name: rules[name](name, v) for name, v in value.items() if v is not None}
        params = cls(**value)
        if params.max_cost_usd is not None and params.price_per_hour is None:
            what = f"parameter max_cost_usd = {params.max_cost_usd:g}"
            raise UserError(f"{what} needs price_per_hour, the price of the machine in dollars")
        if params.depth is not None and "depth" in [pair.split("=")[0] for pair in params.settings.split()]:
            both = f"parameter depth = {params.depth} and settings = {params.settings!r}"
            raise UserError(f"{both} both set the depth; give it once")
        return dataclasses.replace(params, resolved=ask("resolve", params.request()))

    @classmethod
    def from_namespace(cls, namespace: dict) -> "Params":
        """`check` on the notebook's own variables, `globals()`, before anything else is defined.

        papermill only warns of a `-p` name that does not exist, and defines it. So a plain value (text, number, list)
        under a name that is no parameter is refused. IPython's own names, underscores, modules, functions and objects
        are passed over.
        """
        hidden = {"In", "Out", "exit", "quit", "open"}
        if callable(shell := namespace.get("get_ipython")):
            hidden |= set(getattr(shell(), "user_ns_hidden", ()))
        plain = (str, int, float, complex, list, tuple, dict, set, types.NoneType)
        own = {n: v for n, v in namespace.items() if not n.startswith("_") and n not in hidden}
        return cls.check(**{n: v for n, v in own.items() if isinstance(v, plain)})

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "resolved"}
        return "\n".join(f"{name:15} {'' if value is None else value}".rstrip() for name, value in given.items())

    def request(self) -> dict:
        """What decides the plan."""
        changes = self.settings.split() + ([] if self.depth is None else [f"depth={self.depth}"])
        given = {name: getattr(self, name) for name in ("profile", "recipe", "devices", "device_batch")}
        return given | {"changes": sorted(changes)}
