"""The ladder's numbers against the published ones, its schedules against hand-computed values, and what it refuses."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2course.files import UserError
from gpt2course.gpt2 import GPT2Config
from gpt2course.recipes import (
    LADDER,
    PROFILES,
    Plan,
    Recipe,
    make_model,
    make_optimizer,
    override,
    resolve,
    resolve_run,
)

SMALL = dict(depth=4, width=64, head_dim=16, sequence_len=32, vocab_size=512, batch_tokens=320)


def test_jan29_rates_at_depth_24():
    """references: karpathy/nanochat 348fbb3, scripts/base_train.py and nanochat/gpt.py."""
    g = resolve("jan29", depth=24).groups
    assert g["wte"]["lr"] == pytest.approx(0.2121, abs=5e-5) and g["value_embeds"]["lr"] == g["wte"]["lr"]
    assert g["lm_head"]["lr"] == pytest.approx(0.00283, abs=5e-6)
    assert g["matrices"]["lr"] == 0.02 and g["matrices"]["weight_decay"] == pytest.approx(0.05)
    assert g["resid_lambdas"]["lr"] == pytest.approx(0.005) and g["x0_lambdas"]["lr"] == 0.5
    assert (g["x0_lambdas"]["beta1"], g["x0_lambdas"]["beta2"]) == (0.96, 0.95)
    assert all((g[k]["beta1"], g[k]["beta2"], g[k]["weight_decay"]) == (0.8, 0.95, 0) for k in ("lm_head", "wte", "value_embeds", "resid_lambdas"))
    assert (g["matrices"]["safety"], g["matrices"]["ns_steps"], g["matrices"]["beta2"]) == (1.02, 5, 0.95)


def test_record_at_depth_24_ratio_8():
    """references: karpathy/nanochat 92d63d4."""
    p = resolve("record", depth=24, ratio=8)
    g = p.groups
    assert (p.steps, p.batch_tokens) == (5568, 1_048_576)
    assert g["lm_head"]["lr"] == pytest.approx(0.008) and g["wte"]["lr"] == pytest.approx(0.30) and g["value_embeds"]["lr"] == pytest.approx(0.15)
    assert g["matrices"]["lr"] == pytest.approx(0.02828, abs=5e-6) and g["matrices"]["weight_decay"] == pytest.approx(0.0597, abs=5e-5)
    assert g["resid_lambdas"]["lr"] == pytest.approx(0.00707, abs=5e-6) and g["x0_lambdas"]["lr"] == pytest.approx(0.707, abs=5e-4)
    assert g["smear_backout"]["lr"] == 0.2 and p.model.short_window == 512
    assert p.flops_per_token == pytest.approx(4.775e9, rel=1e-4)
    assert (g["wte"]["beta2"], g["lm_head"]["beta2"], g["wte"]["weight_decay"], g["lm_head"]["weight_decay"]) == (0.995, 0.96, 0.001, 0.01)
    assert (g["matrices"]["beta2"], g["matrices"]["row_norm"], g["matrices"]["renorm"]) == (0.9, True, True)


@pytest.mark.parametrize("depth,total,scaling,gflops", [(8, 125.8, 41.9, 0.3146), (12, 286.3, 110.1, 0.8022), (16, 536.9, 234.9, 1.661), (20, 896.5, 435.2, 3.004), (26, 1681.8, 918.4, 6.185)])  # fmt: skip
def test_the_dial_at_other_depths(depth, total, scaling, gflops):
    p = resolve("jan29", depth=depth)
    assert p.params["total"] / 1e6 == pytest.approx(total, abs=0.05) and p.params["scaling"] / 1e6 == pytest.approx(scaling, abs=0.05)
    assert p.flops_per_token / 1e9 == pytest.approx(gflops, rel=2e-4)


@pytest.mark.parametrize("depth,batch", [(8, 2**18), (12, 2**19), (16, 2**19), (18, 2**20), (26, 2**20)])
def test_the_records_batch_follows_the_horizon(depth, batch):
    assert resolve("record", depth=depth).batch_tokens == batch


def test_rates_follow_the_square_root_of_the_batch_except_for_tiny_ones():
    def scale(batch):
        return resolve("record", depth=8, batch_tokens=batch).lr_batch_scale

    assert scale(2**18) == pytest.approx(0.5**0.5) and scale(2**21) == 2 and scale(2**16) == pytest.approx(8**-0.5)
    assert scale(2**15) == scale(2**11) == 1.0  # measured, see results/2026-11-23_small-batch-rates


def test_schedules_of_jan29():
    p = resolve("jan29", **SMALL, steps=1000)
    assert [p.lr(s) for s in (0, 250, 500, 750, 999)] == [1, 1, 1, 0.5, pytest.approx(0.002)]
    assert [p.muon_momentum(s) for s in (0, 150, 300, 999)] == [0.85, pytest.approx(0.90), 0.95, 0.95]
    assert [p.weight_decay(s) for s in (0, 500, 999)] == [1, 0.5, pytest.approx(0.001)]


def test_schedules_of_record():
    p = resolve("record", **SMALL, steps=2000)
    assert [p.lr(s) for s in (0, 19, 39, 700)] == [1 / 40, 0.5, 1, 1]
    assert p.lr(1350) == pytest.approx(0.5 + 0.5 * 0.05) and p.lr(1999) == pytest.approx(0.05, abs=1e-3)
    assert [p.muon_momentum(s) for s in (0, 200, 400)] == [0.85, pytest.approx(0.91), 0.97]
    assert p.muon_momentum(1350) == pytest.approx(0.935) and p.muon_momentum(1999) == pytest.approx(0.90, abs=1e-3)
    assert [p.weight_decay(s) for s in (0, 1000)] == [1, pytest.approx(0.5)] and p.weight_decay(1999) < 1e-5


def test_each_rung_is_the_one_before_it_plus_its_own():
    """What a rung adds is exactly what the course says it adds."""
    names = list(LADDER)
    assert names == ["gpt2", "modern", "muon", "windows", "lambdas", "jan29", "record"]
    added = {"muon": {"matrix_optimizer"}, "windows": {"window_pattern"}, "lambdas": {"resid_lambda", "x0_lambda"}, "jan29": {"value_embeds"}}
    for before, after in zip(names, names[1:]):
        a, b = (dataclasses.asdict(LADDER[n]) for n in (before, after))
        changed = {k for k in a if a[k] != b[k]} - {"name", "lesson"}
        assert after not in added or changed == added[after]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(LADDER)), st.integers(1, 40), st.sampled_from([None, 128, 256, 1024]), st.floats(1, 40))
def test_any_depth_resolves_and_survives_json(recipe, depth, width, ratio):
    p = resolve(recipe, depth=depth, width=width, ratio=ratio)
    assert p.params["scaling"] * ratio // p.batch_tokens == p.steps and p.tokens == p.steps * p.batch_tokens
    assert Plan.from_json(json.loads(json.dumps(p.to_json()))) == p
    assert all(0 <= p.lr(s) <= 1 and 0 <= p.weight_decay(s) <= 1 and 0 < p.muon_momentum(s) < 1 for s in range(0, p.steps, max(1, p.steps // 7)))


FIELDS = [f for f in dataclasses.fields(Recipe) if f.metadata]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FIELDS), st.one_of(st.integers(), st.floats(), st.text(max_size=8), st.booleans(), st.none(), st.lists(st.floats(), max_size=3)))
def test_any_value_is_taken_in_its_range_or_refused_in_one_line(field, value):
    """Whatever comes as a setting, from papermill, YAML or the command line."""
    low, high = field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)
    try:
        found = getattr(override(Recipe(), {field.name: value}), field.name)
    except UserError as e:
        assert "\n" not in str(e) and f"{field.name} = " in str(e) and "it must be" in str(e)
        inside = type(value) in (int, float) and low <= value <= high and abs(value) < 1e30 and value == int(value)
        assert field.metadata.get("choices") or not inside
    else:
        assert found is None or found in field.metadata.get("choices", ()) or low <= found <= high


BAD = [
    (dict(name="mine"), "no setting 'name'"), (dict(architecture="gpt2"), "no setting 'architecture'"), (dict(head_dim=3, width=9), "must be even"), (dict(depth=1, ratio=0.001), "less than one batch"),
    (dict(x0_lambda=[1, 2, 3]), "it must be two numbers"), (dict(window_pattern="LS?"), "only S and L"), (dict(matrix_optimizer="sgd"), "it must be one of adamw, muon"), (dict(n_kv_head=5), "n_kv_head")]  # fmt: skip


@pytest.mark.parametrize("changes,text", BAD, ids=[str(b[0]) for b in BAD])
def test_bad_settings_get_one_clear_error(changes, text):
    with pytest.raises(UserError) as e:
        resolve("jan29", **changes)
    assert text in str(e.value) and "\n" not in str(e.value)


def test_values_may_be_text_as_papermill_and_yaml_pass_them():
    r = override(Recipe(), {"matrix_lr": "1e-3", "qk_norm": "true", "x0_lambda": "[0.1, 0.2]", "width": "None", "depth": "8"})
    assert (r.matrix_lr, r.qk_norm, r.x0_lambda, r.width, r.depth) == (0.001, True, (0.1, 0.2), None, 8)


def test_sizes_of_a_run():
    sizes = resolve_run("jan29", "8xh100", {}, gpus=8)
    assert (sizes.corpus, sizes.devices, sizes.device_batch, sizes.plan) == ("climbmix", 8, 16, resolve("jan29", depth=24))
    assert resolve_run("jan29", "8xh100", {}, gpus=3).devices == 2 and resolve_run("jan29", "1gpu", {}, gpus=8).devices == 1
    laptop = resolve_run("jan29", "laptop", {"depth": "2"}, devices=2)
    assert laptop.plan.model.n_layer == 2 and laptop.plan.batch_tokens == 2048 and laptop.device_batch == 4
    for changes, text in ((dict(devices=3), "can be shared by 1, 2, 4, 8 processes"), (dict(devices=8, gpus=2), "this machine has 2 GPUs"),
                          (dict(device_batch=3), "must divide the 8 rows of a batch on each device: 1, 2, 4, 8"), (dict(devices=2, streams=5), "from 5 streams, can be shared by 1 ")):  # fmt: skip
        with pytest.raises(UserError, match=text):
            resolve_run("jan29", "laptop", {}, **changes)


@given(st.integers(1, 64), st.integers(1, 8), st.integers(0, 16))
def test_a_batch_is_always_shared_equally(rows, streams, gpus):
    sizes = resolve_run("jan29", "8xh100", dict(depth=1, sequence_len=32, batch_tokens=32 * rows, steps=1), gpus=gpus, streams=streams)
    assert rows % sizes.devices == 0 and streams % sizes.devices == 0 and rows // sizes.devices % sizes.device_batch == 0 and sizes.device_batch <= 16


def test_gpt2_has_a_cosine_after_its_warm_up_and_decays_what_gpt3_decayed():
    p = resolve("gpt2", depth=12, steps=1000)
    assert p.lr(0) == 1 / 20 and p.lr(19) == p.lr(20) == 1.0 and p.lr(510) == pytest.approx(0.55) and p.lr(999) == pytest.approx(0.1, abs=1e-4)
    assert all(a >= b for a, b in zip([p.lr(s) for s in range(20, 1000)], [p.lr(s) for s in range(21, 1000)]))
    assert p.groups["matrices"] == dict(kind="adamw", lr=6e-4, beta1=0.9, beta2=0.95, weight_decay=0.1, eps=1e-8)  # arXiv 2005.14165, table 2.1
    assert p.groups["wte"] == p.groups["wpe"] == p.groups["matrices"] and p.groups["scalars"] == p.groups["matrices"] | {"weight_decay": 0.0}
    assert p.groups["matrices"]["lr"] * (768 / 128) ** 0.5 * p.recipe.tiny_batch_lr == pytest.approx(
        resolve("gpt2", depth=4, width=128, head_dim=64, sequence_len=256, batch_tokens=2048, steps=10).groups["matrices"]["lr"])  # fmt: skip
    assert p.model == GPT2Config(32768, 2048, 12, 6, 768) and p.params["total"] == 111_794_688
    model = make_model(p, "meta")
    optimizer = make_optimizer(model, p)
    decayed = {name for g in optimizer.groups if g.weight_decay for name in g.params}
    assert decayed == {name for name, w in model.named_parameters() if w.ndim == 2}


@pytest.mark.parametrize("name", ["window_pattern", "value_embeds", "matrix_optimizer", "n_kv_head", "softcap", "head_lr", "qk_norm"])
def test_settings_of_later_rungs_are_refused_for_gpt2(name):
    with pytest.raises(UserError, match=f"recipe 'gpt2' has no setting '{name}': the model of 2019"):
        resolve("gpt2", **{name: getattr(LADDER["jan29"], name)})


def test_profiles_change_sizes_only():
    sizes = {"depth", "width", "head_dim", "sequence_len", "vocab_size", "batch_tokens", "steps", "ratio", "eval_bytes"}
    assert PROFILES["laptop"]["weight_decay"] == 0.02  # the one exception: results/2026-11-29_laptop-decay
    for name, profile in PROFILES.items():
        assert set(profile) - {"corpus", "device_batch", *(["weight_decay"] if name == "laptop" else [])} <= sizes, name


def test_the_command_prints_json():
    out = subprocess.run([sys.executable, "-m", "gpt2course.recipes", "jan29", "--depth", "24", "--set", "ratio=12"], capture_output=True, text=True, check=True).stdout
    assert json.loads(out)["steps"] == 16704
