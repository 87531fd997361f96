"""The report of a run, as Markdown and as one HTML page, made from the files in the run's folder alone. Lesson 14.

    python -m gpt2course.report jan29-d24

`gather` reads what the run left behind, `blocks` says it in words, tables and figures, and two small functions write
these as Markdown and as HTML. What was not measured is said to be so. The page holds its figures, and needs no network
and no JavaScript.
"""

import base64
import dataclasses
import html
import json
import math
import re
import shlex
import time
from pathlib import Path

import tyro

from gpt2course import jobs, leaderboard
from gpt2course.files import UserError, atomic_file, command, home, read_json

SEED_SD = 0.006  # of CORE over seeds of one recipe, see core_report.py
Z = 1.959964  # standard errors to either side of a 95 % interval


def run_folder(run) -> Path:
    """The folder of a run, by its path or its name under home()/runs."""
    found = next((p for p in (Path(run), home() / "runs" / str(run)) if (p / "config.json").is_file()), None)
    if found is None:
        have = sorted(p.parent.name for p in (home() / "runs").glob("*/config.json"))
        raise UserError(
            f"there is no run {str(run)!r}; runs in {home() / 'runs'}: {', '.join(have) or 'none yet'}. `python -m gpt2course.train` makes one"
        )
    return found.resolve()


# ---- what the files say


def energy(metrics: list[dict]) -> dict | None:
    """{"kwh", "watts" (mean), "seconds" (measured), "share" (of the training clock)} from `power_w` of the training
    lines; None where none has it.

    power_w: watts of all GPUs; a line stands for the time since the line before.
    """
    joules = measured = before = 0.0
    for m in metrics:
        if m.get("kind") == "train":
            seconds, before = m["seconds"] - before, m["seconds"]
            if m.get("power_w") is not None:
                joules, measured = joules + m["power_w"] * seconds, measured + seconds
    return (
        {"kwh": joules / 3.6e6, "watts": joules / measured, "seconds": measured, "share": measured / before}
        if measured
        else None
    )


def interruptions(folder: Path) -> list[str]:
    """The lines of log.txt that tell of stops, resumptions, warnings and damaged checkpoints, with their times."""
    path = folder / "log.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [
        line
        for line in lines
        if re.match(r"[-\d]+ [:\d]+  (resumed from |stopped |warning: |restart|step_\d+ was set aside)", line)
    ]


def time_parts(folder: Path, metrics: list[dict], stages: dict) -> dict[str, float]:
    """Wall-clock seconds by part: those of the runbook where it made the run, else what training logged."""
    if "train" in stages:
        from gpt2course.speedrun import time_by_part

        return time_by_part(folder)
    parts = {"train: steps": next((m["seconds"] for m in reversed(metrics)), 0.0)}
    for kind, name in (("eval", "train: evaluation"), ("checkpoint", "train: checkpoints")):
        parts[name] = round(sum(m.get("took", 0.0) for m in metrics if m.get("kind") == kind), 3)
    return parts


def licences(folder: Path) -> list[str]:
    """Whose the training text is, as the log of the training has it."""
    path = folder / "log.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return list(dict.fromkeys(re.findall(r"(?m)^[-\d]+ [:\d]+  licence: (.+)$", text)))


def gather(run) -> dict:
    """All that the files of a run say, in one dictionary. Missing parts are None or empty. UserError for a folder that
    holds no run."""
    folder = run_folder(run)
    config, metrics = read_json(folder / "config.json", "run configuration"), jobs.read_metrics(folder)
    if not isinstance(config, dict) or "plan" not in config:
        raise UserError(
            f"{folder / 'config.json'} is not the configuration of a run; give the name of a run, or its folder"
        )
    if not metrics:
        raise UserError(
            f"run {folder.name!r} has no metrics yet; train it first: python -m gpt2course.train --name {folder.name}"
        )
    last = {m["kind"]: m for m in metrics}
    stages = {
        stage: found["result"]
        for stage in ("data", "tokenizer", "train", "evaluate", "core", "samples")
        if (found := jobs.stored(folder, stage))
    }
    summary = (
        read_json(folder / "report" / "summary.json", "summary")
        if (folder / "report" / "summary.json").exists()
        else {}
    )
    spent = last.get("train", {})
    price = float(f"{spent['usd'] / spent['seconds'] * 3600:.4g}") if spent.get("usd") and spent["seconds"] else None
    price = summary.get("price_per_hour", price)
    parts = time_parts(folder, metrics, stages)
    total = sum(parts.values())
    try:
        row, row_problem = leaderboard.entry_from_run(folder), None
    except UserError as e:
        row, row_problem = None, str(e)
    result, core = leaderboard._core_result(folder, metrics), None
    if result is not None:
        from gpt2course import core_report  # loads torch

        core = core_report.report(result)
    scored = stages.get("evaluate") or last.get("eval") or {}
    sizes = {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return {
        "name": folder.name, "folder": folder, "config": config, "metrics": metrics, "stages": stages, "summary": summary, "last": last[metrics[-1]["kind"]],
        "finished": "done" in last, "train": last.get("train", {}), "steps": config["plan"]["steps"], "train_seconds": metrics[-1]["seconds"],
        "clock": (last.get("done") or {}).get("leaderboard_seconds"), "val_bpb": scored.get("val_bpb"), "val_bytes": scored.get("val_bytes"), "xz_bpb": scored.get("xz_bpb"),
        "core": core, "core_subset": bool(result and result.get("subset")), "row": row, "row_problem": row_problem, "parts": parts, "total": total, "price": price,
        "usd": None if price is None else total / 3600 * price, "energy": energy(metrics), "interruptions": interruptions(folder), "licences": licences(folder),
        "bytes": sum(sizes.values()), "bytes_without_checkpoints": sum(n for p, n in sizes.items() if folder / "checkpoints" not in p.parents),
    }  # fmt: skip


# ---- what is said: blocks of ("h", text), ("p", text), ("list", texts), ("table", head, rows), ("pre", text),
# ("details", title, text), ("figure", name)


def bpb_words(f: dict) -> str:
    """Bits per byte in one sentence."""
    if f["val_bpb"] is None:
        return "Bits per byte were not measured."
    text = f"{f['val_bpb']:.4f} bits per byte on {f['val_bytes']:,} bytes of {f['config'].get('val_name') or 'validation text'}"
    if f["xz_bpb"]:
        fewer = 1 - f["val_bpb"] / f["xz_bpb"]
        text += f", {abs(fewer):.1%} {'fewer' if fewer >= 0 else 'more'} than xz -9e needs on the same text ({f['xz_bpb']:.4f})"
    return text + "."


def core_words(f: dict) -> str:
    """The score on questions in a few sentences: CORE with its interval and its chance of being above the bar, or what
    it is instead."""
    core = f["core"]
    if core is None:
        return "CORE was not measured."
    low, high = core["interval"]
    text = f"{core['name']} {core['core']:.4f}, 95 % interval {low:.4f} to {high:.4f}, on {core['n']:,} questions."
    if f["row"] is not None and f["row"].core is not None:
        best = list(core["gpt2"])[-1]
        text += f" The probability of being above {core['bar']:.6g}, the score of {best}, on further questions of this kind is {core['above_bar']:.3f}"
        return (
            text
            + f" ({core['gpt2'][best]['above']:.3f} with the noise of {best}'s own score). GPT-2 grade: {f['row'].grade}."
        )
    why = f["row"].notes if f["row"] is not None else "the run is not finished"
    return f"{text} This is not the CORE that GPT-2 grade is measured by ({why})."


def cost_words(f: dict) -> str:
    return (
        "not counted: no price_per_hour was given"
        if f["usd"] is None
        else f"${f['usd']:.2f} at ${f['price']:g} an hour for {jobs.duration(f['total'])}"
    )


def headline(f: dict) -> list[tuple[str, str]]:
    counted, machine = f["clock"], f["config"].get("machine", {})
    hours = (
        "counted at the end of the run"
        if counted is None
        else f"{counted / 3600:.4g} h ({counted:,.2f} s): steps alone, without the first few, which warm the machine up"
    )
    state = "finished" if f["finished"] else "not finished"
    return [
        ("state", f"{state}: step {f['metrics'][-1]['step']:,} of {f['steps']:,}, {f['metrics'][-1]['tokens']:,} tokens, {f['metrics'][-1]['flops']:.4g} FLOPs"),
        ("bits per byte", bpb_words(f)),
        ("questions", core_words(f)),
        ("training time, as the leaderboard counts it", hours),
        ("training clock", jobs.duration(f["train_seconds"])),
        ("total time", jobs.duration(f["total"])),
        ("cost", cost_words(f)),
        ("machine", f"{machine.get('devices', 1)} x {machine.get('device')}, {f['config'].get('dtype')}"),
    ]  # fmt: skip


def gpt2_table(f: dict) -> tuple:
    rows = []
    for model, g in f["core"]["gpt2"].items():
        low, high = g["difference_interval"]
        rows.append(
            (model, f"{g['core']:.4f}", f"{g['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{g['above']:.3f}")
        )
    return (
        "table",
        ("model", "its CORE", "this run less it", "95 % interval", "probability that this run is above"),
        rows,
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n (Wilson 1927), which is not empty at 0 of n and never leaves 0 to 1."""
    middle, half = share + Z * Z / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (middle - half) / (1 + Z * Z / n), (middle + half) / (1 + Z * Z / n)


def task_table(core: dict) -> tuple:
    """Each task with its 95 % interval, and GPT-2 XL's score beside it where that is published."""
    best = list(next(iter(core["tasks"].values()))["gpt2"])[-1:]
    rows = []
    for label, t in core["tasks"].items():
        low, high = ((x - t["random_baseline"]) / (1 - t["random_baseline"]) for x in wilson(t["accuracy"], t["n"]))
        row = (
            label,
            f"{t['n']:,}",
            f"{t['num_fewshot']}",
            f"{t['accuracy']:.4f}",
            f"{t['random_baseline']:.3f}",
            f"{t['centred']:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
        )
        rows.append(
            row + tuple(f"{t['gpt2'][m]['centred']:+.4f}{' *' if t['gpt2'][m]['beyond_noise'] else ''}" for m in best)
        )
    return "table", ("task", "questions", "shots", "accuracy", "guessing", "centred", "95 % interval", *best), rows


def row_checks(f: dict) -> list[str]:
    """What a leaderboard entry needs, each with whether this run has it."""
    row, machine = f["row"], f["config"].get("machine", {})
    if row is None:
        return [f"no: {f['row_problem']}"]
    gpus = machine.get("devices") == 8 and "h100" in str(machine.get("device")).lower()
    checks = [
        (row.core is not None, "CORE on all questions of all 22 tasks", row.notes or "run python -m gpt2course.core with the whole bundle"),
        (row.grade == "yes", f"CORE above {leaderboard.GPT2_CORE}", f"it is {row.grade}"),
        (gpus, "8 x H100, for comparison with the published entries", f"this was {row.hardware}; the time is no entry for 8 x H100"),
        (bool(row.commit) and not row.commit.endswith("+"), f"a commit without changes ({row.commit or 'none'})", "others cannot repeat what no commit holds"),
        (row.val_bpb is not None, "bits per byte on a named validation text", "measure it: python -m gpt2course.evaluate"),
        (not [line for line in f["interruptions"] if "resumed from" in line], "one run without interruption", "resumed runs count their whole training clock; say so"),
    ]  # fmt: skip
    return [f"yes: {what}" if good else f"no: {what}; {mend}" for good, what, mend in checks]


def checkpoint_share(f: dict) -> str:
    took = sum(m.get("took", 0.0) for m in f["metrics"] if m["kind"] == "checkpoint")
    n, clock = sum(m["kind"] == "checkpoint" for m in f["metrics"]), f["train_seconds"]
    return (
        f"{n} checkpoint{'s' if n != 1 else ''} took {took:.1f} s, {took / (clock + took):.2%} of the time spent on steps and checkpoints."
        if clock
        else "No step was logged."
    )


def energy_words(f: dict) -> str:
    e = f["energy"]
    if e is None:
        return ("Energy was not measured: no line of metrics.jsonl has power_w. On NVIDIA GPUs training logs it where the driver tells; "
                "elsewhere read the power from the machine's own meter. nvidia-smi --query-gpu=power.draw --format=csv -l 10 prints it beside a run.")  # fmt: skip
    return (f"{e['kwh']:.4g} kWh by the GPUs, {e['watts']:,.0f} W on average, sampled over {e['share']:.0%} of the training clock. "
            "The rest of the machine and the cooling come on top.")  # fmt: skip


def commands(f: dict) -> list[tuple]:
    """What to do with the run now."""
    name, folder, row = shlex.quote(f["name"]), f["folder"], f["row"]
    source, target = shlex.quote(f"USER@NODE:{folder}"), shlex.quote(f"./{f['name']}")
    out = [
        ("h", "What next"),
        ("p", "1. Export the model, on the machine where it was trained."),
        ("pre", f"python -m gpt2course.export {name}"),
        ("p", "2. Copy the run to a machine of yours. There, with the address of the node:"),
        ("pre", f"# all but the checkpoints, {size_words(f['bytes_without_checkpoints'])}{'' if (folder / 'export').is_dir() else ' before the export'}: the model is in export/\n"
                f"rsync -av --partial --exclude /checkpoints {source}/ {target}/\n"
                f"# all of it, {size_words(f['bytes'])}, to go on training from a checkpoint; or: scp -r {source} {target}\n"
                f"rsync -av --partial {source}/ {target}/"),
        ("p", "3. End the rental, at the provider. A node costs money until then; one that is only shut down may still be billed."),
        ("p", "4. Run the model on a laptop, from the copied folder and with no need of the run. The README.md in it says how much memory that takes."),
        ("pre", f"python -m gpt2course.sample {target}/export --prompt 'The capital of France is'"),
        ("h", "A place on the leaderboard"),
        ("p", f"This makes the evidence folder results/{row.evidence if row else 'DATE_NAME'} (record.json, metrics.jsonl, config.json, core.json, SHA256SUMS) and one line of "
              "results/leaderboard.csv. Send both as a pull request to this course."),
        ("pre", f"python -m gpt2course.leaderboard add {name}"),
        ("p", "What an entry needs, and whether this run has it:"),
        ("list", row_checks(f)),
    ]  # fmt: skip
    if row:
        out += [
            ("p", "Its line:"),
            ("table", ("column", "value"), [(k, v) for k, v in dataclasses.asdict(row).items() if v not in (None, "")]),
            ("figure", "leaderboard"),
        ]
    return out + [
        ("p", f"One CORE says little: over seeds of one recipe its standard deviation is about {SEED_SD}. Report every run that you made of a recipe, not the best, "
              "and bits per byte beside CORE. The published table is that of karpathy/nanochat, and dev/LEADERBOARD.md there has its rules: CORE above the bar on all "
              "examples, training time below the record on 8 x H100, with the bits per byte and the commit, as a pull request against its code."),
    ]  # fmt: skip


def size_words(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def blocks(f: dict) -> list[tuple]:
    """The whole report."""
    config, machine, plan = f["config"], f["config"].get("machine", {}), f["config"]["plan"]
    out = [("h", "In short"), ("table", ("what", "result"), headline(f))]
    if f["core"] and f["core"]["gpt2"]:
        out += [("p", "Beside the four GPT-2 models, with the noise of both:"), gpt2_table(f)]
    out += [("h", "Training"), ("figure", "loss_and_bpb"), ("figure", "learning_rates"), ("figure", "throughput")]
    speed, used = (
        f["train"].get("tok_per_sec"),
        sorted(m["mfu"] for m in f["metrics"] if m["kind"] == "train" and m.get("mfu") is not None),
    )
    if speed:
        said = (
            f", MFU {used[len(used) // 2]:.1%} (median)"
            if used
            else "; MFU is unknown, since the peak of this machine is not known to cost.py"
        )
        out += [
            (
                "p",
                f"Over all steps {f['metrics'][-1]['tokens'] / f['train_seconds']:,.0f} tokens/s{said}. Final loss {f['train']['loss']:.4f} nats per token.",
            )
        ]
    if f["core"]:
        out += [("h", f"Questions: {f['core']['name']}"), ("figure", "core_tasks"), task_table(f["core"])]
        out += [
            (
                "p",
                "Centred: 0 is guessing, 1 is perfect. "
                + ("* differs from that model by more than the noise of both. " if f["core"]["gpt2"] else ""),
            ),
            ("list", f["core"]["notes"]),
        ]
    out += [
        ("h", "Where the time went"),
        ("figure", "time"),
        (
            "table",
            ("part", "seconds", "share"),
            [(k, f"{s:,.1f}", f"{s / f['total']:.1%}") for k, s in f["parts"].items()] if f["total"] else [],
        ),
    ]
    out += [("p", checkpoint_share(f)), ("p", energy_words(f))]
    out += [("h", "Stops and restarts")]
    resumed = sum("  resumed from " in line for line in f["interruptions"])
    out += [
        (
            "p",
            f"Resumed {resumed} time{'s' if resumed != 1 else ''}."
            if f["interruptions"]
            else "None: training ran from its first step to its last line in one go.",
        )
    ]
    out += [("pre", "\n".join(f["interruptions"]))] * bool(f["interruptions"])
    if samples := f["stages"].get("samples"):
        out += [
            ("h", "Samples"),
            (
                "p",
                "The prompt ends at |. A base model continues a text; it does not answer, and what it says is often false.",
            ),
        ]
        out += [("pre", f"{prompt} | {text.strip()}") for prompt, text in zip(samples["prompts"], samples["texts"])]
    out += commands(f)
    out += [("h", "How it was made"), ("table", ("what", "value"), [
        ("recipe", f"{plan['recipe']['name']}, depth {plan['model']['n_layer']}, {plan['params']['total']:,} parameters"), ("seed", config.get("seed")),
        ("corpus", config.get("corpus")), *[("licence of the text", line) for line in f["licences"]], *[("note", line) for line in config.get("corpus_notes", ())],
        ("validation text", f"{config.get('val_name')}, sha256 {config.get('val_sha256')}"), ("tokenizer", f"sha256 {config.get('tokenizer_sha256')}"),
        ("commit", config.get("commit")), ("command", shlex.join(map(str, config.get("command") or ()))), *sorted((k, v) for k, v in machine.items() if v is not None),
    ])]  # fmt: skip
    return out + [("details", "every number of the plan", json.dumps(plan, indent=1))]


# ---- how it is written


def figures(f: dict) -> dict[str, tuple[bytes, str]]:
    """name -> (PNG, what it shows in words), or (b"", why there is no figure)."""
    from gpt2course import plots

    made = {"loss_and_bpb": lambda: plots.loss_and_bpb(f["metrics"], f["xz_bpb"]), "learning_rates": lambda: plots.learning_rates(f["metrics"]),
            "throughput": lambda: plots.throughput(f["metrics"]), "time": lambda: plots.where_time_went(f["parts"])}  # fmt: skip
    if f["core"]:
        made["core_tasks"] = lambda: plots.core_report_figure(f["core"])
    if f["row"]:
        made["leaderboard"] = lambda: plots.leaderboard_figure(leaderboard.read(), f["row"])
    out = {}
    for name, draw in made.items():
        try:
            fig = draw()
            out[name] = plots.png(fig), fig.alt
        except (
            UserError
        ) as e:  # a run that was stopped early has no evaluation yet; a package without its repository no leaderboard
            out[name] = b"", f"no figure {name}: {e}"
    return out


def markdown_text(value) -> str:
    """Any text as Markdown that shows just it, on one line."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", " ".join(html.escape(str(value), quote=False).split()))


def fenced(text: str) -> str:
    """A block of text as it is; the fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def to_markdown(title: str, content: list[tuple], pictures: dict) -> str:
    out = [f"# {markdown_text(title)}"]
    for kind, *rest in content:
        if kind == "table":
            head, rows = rest
            line = lambda cells: "| " + " | ".join(map(markdown_text, cells)) + " |"  # noqa: E731
            out.append("\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)]))
        elif kind == "figure":
            picture, alt = pictures[rest[0]]
            out.append(f"![{markdown_text(alt)}](figures/{rest[0]}.png)" if picture else f"({markdown_text(alt)})")
        elif kind == "details":
            out.append(f"{markdown_text(rest[0])}:\n\n{fenced(rest[1])}")
        elif kind == "list":
            out.append("\n".join(f"- {markdown_text(text)}" for text in rest[0]))
        else:
            out.append({"h": lambda t: f"## {markdown_text(t)}", "p": markdown_text, "pre": fenced}[kind](rest[0]))
    return "\n\n".join(out) + "\n"


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #111; background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.92rem }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.8rem 0.25rem 0; border-bottom: 1px solid #ddd }
td { overflow-wrap: anywhere } td:first-child { overflow-wrap: normal; min-width: 8rem } img { max-width: 100%; height: auto }
pre { background: #f4f4f4; padding: 0.7rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem }
@media print { pre { max-height: none } }
"""


def to_html(title: str, content: list[tuple], pictures: dict) -> str:
    e = lambda value: html.escape(str(value))  # noqa: E731
    out = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">'
    ]
    out += [f"<title>{e(title)}</title>\n<style>{STYLE}</style>\n<h1>{e(title)}</h1>"]
    for kind, *rest in content:
        if kind == "table":
            head, rows = rest
            body = "".join("<tr>" + "".join(f"<td>{e(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
            out.append("<table>\n<tr>" + "".join(f"<th>{e(cell)}</th>" for cell in head) + f"</tr>\n{body}</table>")
        elif kind == "figure":
            picture, alt = pictures[rest[0]]
            out.append(
                f'<p><img alt="{e(alt)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></p>'
                if picture
                else f"<p>({e(alt)})</p>"
            )
        elif kind == "details":
            out.append(f"<details><summary>{e(rest[0])}</summary><pre>{e(rest[1])}</pre></details>")
        elif kind == "list":
            out.append("<ul>\n" + "".join(f"<li>{e(text)}</li>\n" for text in rest[0]) + "</ul>")
        else:
            tag = {"h": "h2"}.get(kind, kind)
            out.append(f"<{tag}>{e(rest[0])}</{tag}>")
    return "\n".join(out) + "\n</html>\n"


def write(run) -> dict:
    """Write report/report.md, report/report.html and report/figures/ of a run, each file whole or not at all.

    run: a run's name or folder. Returns {"html", "markdown": paths, "figures": names, "headline": {what: result}}.
    """
    f = gather(run)
    title, content, pictures = f"Run {f['name']}", blocks(f), figures(f)
    content.insert(0, ("p", f"Made {time.strftime('%Y-%m-%d %H:%M')} from the files in {f['folder']}."))
    folder = f["folder"] / "report"
    for name, (picture, _) in pictures.items():
        if picture:
            with atomic_file(folder / "figures" / f"{name}.png", "wb") as out:
                out.write(picture)
    for name, make in (("report.md", to_markdown), ("report.html", to_html)):
        with atomic_file(folder / name) as out:
            out.write(make(title, content, pictures))
    return {
        "html": str(folder / "report.html"),
        "markdown": str(folder / "report.md"),
        "figures": [n for n, (p, _) in pictures.items() if p],
        "headline": dict(headline(f)),
    }


def main(run: tyro.conf.Positional[str]) -> None:
    """Write the report of a run from its files: report/report.html, one page to open in a browser, and
    report/report.md.

    Example: python -m gpt2course.report jan29-d24

    Args:
        run: Name of a run, or its folder. A run that is still at work may be reported on too.
    """
    made = write(run)
    for what, result in made["headline"].items():
        print(f"{what}: {result}")
    print(f"written: {made['html']}\n         {made['markdown']}")


if __name__ == "__main__":
    command(main)
