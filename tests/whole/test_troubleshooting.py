"""TROUBLESHOOTING.md and the code hold each other: what the page quotes the code says, and what the code refuses the page explains."""

import ast
import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from gpt2course.files import UserError

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
# the modules of a real run, whose refusals must be explained
RUN = ("shards", "download", "preflight", "smoke", "supervise", "speedrun", "jobs", "train", "checkpoint", "ranks", "attention", "kernels", "fp8", "bundle", "core_fast", "export",
       "campaign", "scaling")  # fmt: skip
SELF = (  # refusals that say all there is to say: a value, what is allowed, and nothing to look up
    r"is not allowed", r"does not exist; there are", r"must be", r"give another --out", r"^there is nothing to draw", r"not for typing", r"say how much with one of", r"download both again",
    r"is not in …; it has …", r"do not use this file",
)  # fmt: skip


def no_name(name: str) -> None:
    return None


def template(node, text_of=no_name) -> str | None:
    """A string as the code writes it, with … for what varies; ``text_of`` a name gives the text that it stands for, or None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return text_of(node.id)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else template(part.value, text_of) or "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left, text_of), template(node.right, text_of)
        return None if left is None and right is None else (left or "…") + (right or "…")
    return None


class Names:
    """The texts of a function's names, or of a module's, at each line: a message may be put together from them."""

    def __init__(self, tree: ast.AST, outer=no_name):
        self.set_at, self.outer = {}, outer
        for node in sorted((n for n in ast.walk(tree) if isinstance(n, ast.Assign)), key=lambda n: n.lineno):
            target, value = node.targets[0], node.value
            pairs = zip(target.elts, value.elts) if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) else [(target, value)]
            for name, each in pairs:
                if isinstance(name, ast.Name):
                    self.set_at.setdefault(name.id, []).append((node.lineno, template(each, self.before(node.lineno))))

    def before(self, line: int):
        """The text of a name where it was set last above the line."""

        def text_of(name: str) -> str | None:
            above = [text for at, text in self.set_at.get(name, ()) if at < line]
            return above[-1] if above else self.outer(name)

        return text_of


@functools.cache
def parsed(path: Path) -> tuple[tuple[ast.AST, str | None], ...]:
    """(node, its template) of every node of a Python file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    shared = Names(ast.Module([n for n in tree.body if isinstance(n, ast.Assign)], [])).before(10**6)
    out = {node: template(node, shared) for node in ast.walk(tree)}
    for function in ast.walk(tree):  # an inner function after the one around it
        if isinstance(function, ast.FunctionDef):
            names = Names(function, shared)
            out |= {node: template(node, names.before(node.lineno)) for node in ast.walk(function) if hasattr(node, "lineno")}
    return tuple(out.items())


@functools.cache
def strings(path: Path) -> tuple[str, ...]:
    """All strings of a file: of Python the templates of its constants and f-strings, of anything else its lines."""
    if path.suffix != ".py":
        return tuple(path.read_text(encoding="utf-8").splitlines())
    return tuple(t for node, t in parsed(path) if t is not None and not isinstance(node, ast.Name))


FILES = (*sorted((ROOT / "gpt2course").rglob("*.py")), *sorted((ROOT / "tools").glob("*.py")), ROOT / "Makefile", *sorted((ROOT / "launch").glob("*.sh")))


def fragments(message: str) -> list[str]:
    """The words of a message between what varies, long enough to be nobody else's."""
    parts = [part.strip(" `'\".,;:()") for part in re.split("…", message)]
    return [part for part in parts if len(part) >= 6 and re.search("[a-z]{3}", part)]


def said_by(message: str, path: Path) -> bool:
    return all(any(part in t for t in strings(path)) for part in fragments(message))


def entries() -> list[tuple[str, str]]:
    """(heading, message) of every message that the page quotes, in headings and in the lists below them."""
    out = []
    for block in re.split(r"(?m)^### ", PAGE)[1:]:
        heading, _, rest = block.partition("\n")
        quoted = re.findall(r"(?m)^`(.+)`,?$", rest.partition("```")[0])
        out += [(heading, m) for m in [*re.findall(r"^`(.*)`$", heading), *quoted]]
    return out


ENTRIES = entries()


def test_the_page_has_entries():
    assert len(ENTRIES) > 150 and len({m for _, m in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("message", [m for _, m in ENTRIES])
def test_a_message_of_the_page_is_the_codes(message):
    assert fragments(message), "nothing in it can be found"
    assert any(said_by(message, path) for path in FILES), f"no file says: {message}; it must be as in the code, with … for what varies"


def refusals() -> list[tuple[str, str]]:
    """(module, template) of every UserError and STOP of the modules of a run."""
    out = []
    for name in RUN:
        found = parsed(ROOT / "gpt2course" / f"{name}.py")
        said = {node: t for node, t in found}
        for node, _ in found:
            called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if called in ("UserError", "stop") and node.args and (t := said[node.args[-1]]) and fragments(t):
                out.append((name, t))
    return out


def test_refusals_are_found():
    assert len(refusals()) > 120 and any("another machine" in t for _, t in refusals())


@pytest.mark.parametrize("name,text", refusals(), ids=lambda v: v[:50])
def test_what_the_code_refuses_is_on_the_page(name, text):
    if any(re.search(pattern, text) for pattern in SELF):
        return
    own, quoted = fragments(text), {part for _, m in ENTRIES for part in fragments(m)}
    explained = any(a == b or min(len(a), len(b)) >= 12 and (a in b or b in a) for a in own for b in quoted)
    assert explained, f"{name}.py says {text!r}, and TROUBLESHOOTING.md does not: put it under an entry that says what to do"


# ---- what the supervisor and the smoke run say is not raised, but looked for all the same


@pytest.mark.parametrize("name,says", [("supervise", "say"), ("train", "say"), ("train", "warn")])
def test_what_a_log_warns_of_is_on_the_page(name, says):
    page = {part for _, m in ENTRIES for part in fragments(m)}
    for t in strings(ROOT / "gpt2course" / f"{name}.py"):
        if re.match(r"(warning|restart|error: training failed|stopped|no sign of life)", t) and len(t) > 12 and ".*" not in t and fragments(t):
            assert any(min(len(a), len(b)) >= 12 and (a in b or b in a) for a in fragments(t) for b in page), t


# ---- commands, links, names


BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
SHELL = {"df", "rm", "nvidia-smi", "docker", "sudo", "ulimit", "export", "unset", "rsync", "pip"}


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_a_command_of_the_page_can_be_given(line):
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_0-9]+=\S*", words[0]):
        words.pop(0)
    if words[0] == "make":
        targets = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text())
        assert [w for w in words[1:] if "=" not in w and w not in targets] == []
        for value in [w.partition("=")[2] for w in words if w.startswith("PARAMETERS=")]:
            from gpt2course.ops.params import Params

            given = shlex.split(value)
            assert set(given[::3]) == {"-r"} and {name for name in given[1::3]} <= {f for f in Params.__dataclass_fields__}
        return
    if words[:2] in (["python", "-m"], ["torchrun", "--standalone"]):
        at = next(i for i, w in enumerate(words) if w.startswith("gpt2course."))
        main = importlib.import_module(words[at]).main
        stub = functools.wraps(main)(lambda *_, **__: None)
        tyro.cli(stub, args=words[at + 1 :], config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes))  # SystemExit where it cannot be parsed
        return
    assert words[0] in SHELL, f"{words[0]} is no command of this project, nor one of {', '.join(sorted(SHELL))}"


def test_links_and_variables_are_there():
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"(?m)^##+ (.*)$", PAGE)}
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists() if path else anchor in headings, target
    code = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    for name in set(re.findall(r"GPT2COURSE_[A-Z0-9_]+", PAGE)):
        assert name in code, name
    for where in ("README.md", "runbooks/README.md"):
        assert "TROUBLESHOOTING.md" in (ROOT / where).read_text(encoding="utf-8")


# ---- as a reader would: the error that a command really gives is found on the page


def on_the_page(error: str) -> bool:
    """A message of the page, its … standing for anything, is in the error."""
    wild = lambda m: ".*?".join(re.escape(part) for part in m.split("…"))
    return any(re.search(wild(m.strip("… ")), error, re.S) for _, m in ENTRIES if fragments(m))


GIVEN = [
    ("train", ["jan29", "--corpus", "nowhere.jsonl"]), ("train", ["jan29", "--corpus", "climbmix"]), ("train", ["jan29", "--attention", "fa3"]),
    ("train", ["jan29", "--device-batch", "7"]), ("train", ["jan29", "--max-cost-usd", "3"]), ("sample", ["no-such-run"]), ("speedrun", ["status", "no-such-run"]),
    ("bundle", ["no/such/folder"]), ("shards", ["verify", "climbmix"]), ("export", ["no-such-run"]), ("scaling", ["none.jsonl"]), ("grade", ["77"]),
]  # fmt: skip


@pytest.mark.parametrize("module,argv", GIVEN, ids=lambda v: " ".join(v) if isinstance(v, list) else v)
def test_an_error_that_is_really_given_is_on_the_page(module, argv, tmp_path):
    env = os.environ | {"GPT2COURSE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", f"gpt2course.{module}", *argv], capture_output=True, text=True, cwd=tmp_path, env=env | {"PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.returncode and done.stderr.startswith("error: ") and on_the_page(done.stderr), done.stderr


def test_an_error_that_nobody_wrote_is_not_on_the_page():
    assert not on_the_page("error: the moon is made of cheese; eat it") and issubclass(UserError, Exception)
    assert not any(said_by("the moon is made of cheese …; eat it", path) for path in FILES)
