"""Rehearse a training run at full size on GPUs that do not exist: every shape, byte and message, and no numbers.

    python tools/rehearse.py record --depth 24 --world 8 --device-batch 16
    python tools/rehearse.py jan29 --depth 4 --compile

Tensors here are torch's fake tensors: they have a shape, a type and a device, but no data. The program runs two whole
steps on rank 0 and on the last rank (forward, backward, optimizer with its communication), an evaluation and sampling
with a cache, and prints a page: peak memory by category, what a layer keeps, communication, operators. It ends with
code 1 if it finds a problem (see `problems`). It cannot show numbers, speed, hangs, the allocator's slack, or the
temporaries inside a kernel.

A CPU build of torch refuses fake tensors on `cuda` in a few places, until a device guard and CUDA hooks are
registered. SHIM below does that in 30 lines of C++, compiled by g++ once for each version of torch.
"""

import collections
import contextlib
import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
import tyro
from torch._functorch import config as partitioner
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2course import attention, losses, optim, sample, train
from gpt2course.cost import memory_estimate, must_recompute, step_sizes
from gpt2course.fast import fp8, kernels
from gpt2course.files import UserError, command, home, write_json
from gpt2course.model import GPT
from gpt2course.ranks import Ranks
from gpt2course.recipes import make_optimizer, resolve, settings_from_text
from gpt2course.runlog import git_commit

RECORDED = "results/2026-11-29_rehearsal"
TOLERANCE = 0.03  # by how much cost.py's estimate may differ from the rehearsal's peak
SHIM = r"""
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <new>
using namespace c10;

struct Guard final : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {  // one device, cuda:0, on which nothing happens
  Device here() const { return Device(DeviceType::CUDA, 0); }
  Stream stream() const { return Stream(Stream::DEFAULT, here()); }
  Device exchangeDevice(Device) const override { return here(); }
  Device getDevice() const override { return here(); }
  Stream getStream(Device) const noexcept override { return stream(); }
  Stream getDefaultStream(Device) const override { return stream(); }
  Stream getNewStream(Device, int) const override { return stream(); }
  Stream exchangeStream(Stream) const noexcept override { return stream(); }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
};

extern "C" void install() {
  impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)].store(new Guard());
  // torch makes its own hooks only once, perhaps before this call. Neither class has data, so ours fit in their place.
  new (const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks())) Hooks();
}
"""


@dataclass
class Rehearse:
    """Run two steps of a recipe on fake GPUs, and print what they need.

    Example: python tools/rehearse.py record --depth 24 --world 8 --device-batch 16
    """

    recipe: tyro.conf.Positional[str] = "record"  # of the ladder, except gpt2
    depth: int = 24  # layers
    world: int = 8  # GPUs; 1 for a run without ranks
    device_batch: int = 16  # rows of T tokens in one forward pass
    fp8: bool = False  # products of the blocks in 8 bits
    kernel: Literal["fa3", "varlen", "sdpa"] = "fa3"  # attention
    compile: bool = False  # with torch.compile: graphs, and what the partition of forward and backward keeps
    memory: float = 84.9  # GB of a GPU: where a compiled step needs more, it recomputes, as train.py does
    set: tuple[str, ...] = ()  # other settings of the recipe, name=value
    out: str | None = None  # JSON file for everything that was found


# ---- fake CUDA


def fake_cuda() -> None:
    """From here on fake tensors work on `cuda` in this process. UserError where they cannot."""
    if torch.version.cuda or torch.version.hip:
        raise UserError(f"a rehearsal needs a CPU build of torch, and this is {torch.__version__}; see {RECORDED}")
    name = hashlib.sha256(SHIM.encode()).hexdigest()[:8]
    library = home() / "rehearse" / f"fake_cuda-{torch.__version__}-{name}.so"
    if not library.exists():
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        if compiler is None:
            raise UserError(f"a rehearsal needs a C++ compiler (g++), and there is none; see the pages in {RECORDED}")
        library.parent.mkdir(parents=True, exist_ok=True)
        ours, torch_at = library.with_suffix(f".{os.getpid()}"), Path(torch.__file__).parent
        link = ["-I", torch_at / "include", "-L", torch_at / "lib", "-ltorch_cpu", "-lc10"]
        call = [compiler, "-std=c++20", "-shared", "-fPIC", "-x", "c++", "-", "-o", ours, *link]
        done = subprocess.run(call, input=SHIM, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{compiler} cannot compile the shim: {(done.stderr.splitlines() or ['?'])[0]}")
        ours.rename(library)
    ctypes.CDLL(str(library)).install()
    torch.autograd.set_multithreading_enabled(False)  # a backward pass on this thread, where the modes are active


# ---- stand-ins for CUDA kernels, with the tensors that those keep


@torch.library.custom_op("rehearse::rms_norm", mutates_args=())
def rms_norm(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """CUDA's fused RMSNorm keeps its input and one float32 number a row."""
    raise NotImplementedError


@torch.library.custom_op("rehearse::rms_norm_backward", mutates_args=())
def rms_norm_backward(dy: torch.Tensor, x: torch.Tensor, rstd: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


rms_norm.register_fake(lambda x: (torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)))
rms_norm_backward.register_fake(lambda dy, x, rstd: torch.empty_like(x))
rms_norm.register_autograd(
    lambda ctx, dy, _: rms_norm_backward(dy, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0], output[1]),
)


def sdpa_kernel(q, k, v, attn_mask=None, is_causal=False, enable_gqa=False):
    """torch's memory-efficient attention, which CUDA takes when there is a mask: it never has all T x T scores."""
    if enable_gqa:
        k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    if attn_mask is not None:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).expand(*q.shape[:-1], k.size(-2))
    keeps = torch.is_grad_enabled()
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, keeps, 0.0, is_causal)[0]


@contextlib.contextmanager
def stand_ins(kernel: str, compiled: bool):
    """Inside, CUDA's attention, loss and norm are the kernels that a GPU would run."""
    # FlashAttention 3 keeps what FlashAttention 4 keeps: q, k, v, the output, and a float32 number for each query
    flash = lambda q, k, v, left: kernels.fa4_forward(q, k, v, left)[0]
    chosen = {"fa3": lambda: flash, "varlen": kernels.load_varlen, "sdpa": lambda: attention.sdpa}[kernel]()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(attention._kernels, {"cuda": chosen}))
        stack.enter_context(mock.patch.dict(losses._steps, {"cuda": lambda *_: None}))  # Triton: needs no memory
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", sdpa_kernel))
        if not compiled:  # torch.compile takes the norm apart
            stack.enter_context(mock.patch.object(F, "rms_norm", lambda x, shape: rms_norm(x)[0]))
        yield


# ---- watching


CASTS = ("aten._to_copy", "prims.convert_element_type", "aten.permute")  # what makes a weight in the compute dtype


@dataclass
class Storage:
    """Memory of one or more tensors."""

    bytes: int
    category: str
    made_by: str
    shape: tuple
    dtype: str
    layer: int | None
    forward: int  # number of the forward pass that made it; 0: none


class Watch(TorchDispatchMode):
    """Sees every operator: live memory by category and its peak, counts of operators, communication, float64."""

    def __init__(self, world: int):
        super().__init__()
        self.world = world
        self.stored, self.refs = {}, {}  # address of a storage -> Storage, weak reference
        self.live = collections.Counter()  # category -> bytes
        self.peaks = collections.defaultdict(collections.Counter)  # phase -> category -> bytes at the phase's peak
        self.phase, self.layer, self.category = "build", None, "weights"  # of what is made now
        self.ops = collections.defaultdict(collections.Counter)  # phase -> operator -> calls
        self.float64, self.sent = collections.Counter(), collections.defaultdict(lambda: [0, 0])  # calls, bytes
        self.forwards, self.at_peak = 0, {}  # forward passes so far; phase -> their number at the phase's peak
        self.pointwise = collections.Counter()  # phase -> numbers that fused operators make; with torch.compile
        self.largest = (0, "", ())  # bytes, operator and shape of the largest temporary
        self.step = 0
        self.fused = False  # the next operator is part of a larger kernel, so its output needs no memory

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # else torch.compile does nothing inside the mode

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removesuffix(".default")
        if name == "prim.device":
            return func(*args, **(kwargs or {}))
        self.ops[self.phase][name] += 1
        if name == "aten._local_scalar_dense":  # x.item(): fake tensors have no numbers
            return 1.0 if args[0].dtype.is_floating_point else 1
        if name == "gpt2course.cross_entropy":  # its own code, to see its temporaries
            before, self.category = self.category, "loss"
            with self:
                out = losses._cross_entropy._init_fn(*args, **(kwargs or {}))
            self.category = before
        else:
            out = func(*args, **(kwargs or {}))
        if name.startswith("c10d."):
            self.communication(name, args)
        self.see(out, name)
        return out

    def see(self, out, name: str) -> None:
        """Count the tensors of `out` whose memory is new."""
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, (tuple, list)):
                self.see(t, name)
            if not isinstance(t, torch.Tensor) or t.device.type != "cuda":
                continue
            if t.dtype == torch.float64:
                self.float64[f"{self.phase}: {name}"] += 1
            storage = t.untyped_storage()
            at = storage._cdata
            if at in self.stored or self.fused:
                continue
            size, shape = -(-storage.nbytes() // 512) * 512, tuple(t.shape)  # as CUDA's allocator rounds
            category, number = self.category, self.forwards if self.phase == "forward" else 0
            self.stored[at] = Storage(size, category, name, shape, str(t.dtype)[6:], self.layer, number)
            self.refs[at] = weakref.ref(storage, lambda _, at=at: self.forget(at))
            self.live[category] += size
            if category in ("temporary", "loss"):
                self.largest = max(self.largest, (size, name, shape))
            if self.live.total() >= self.peaks[self.phase].total():
                self.peaks[self.phase], self.at_peak[self.phase] = self.live.copy(), self.forwards

    def forget(self, at: int) -> None:
        old = self.stored.pop(at)
        del self.refs[at]
        self.live[old.category] -= old.bytes

    def move(self, storage: Storage | None, category: str) -> None:
        if storage is not None:
            self.live[storage.category] -= storage.bytes
            self.live[category] += storage.bytes
            storage.category = category

    def of(self, t: torch.Tensor) -> Storage | None:
        return self.stored.get(t.untyped_storage()._cdata)

    def communication(self, name: str, args) -> None:
        """Bytes that this rank sends: a ring passes (world - 1) / world of the whole, an all-reduce does so twice."""
        kind = name.split(".")[1].strip("_").removesuffix("_base")
        tensors = [t for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, torch.Tensor)]
        if any(t.device.type == "cuda" for t in tensors):
            whole = max(t.nbytes for t in tensors) * (2 if kind == "allreduce" else 1)
            self.sent[kind][0] += 1
            self.sent[kind][1] += round(whole * (self.world - 1) / self.world)

    def begin(self, phase: str, category: str = "temporary") -> None:
        self.phase, self.category = phase, category
        self.forwards += phase == "forward"

    def end_of_forward(self, weights: set) -> list[Storage]:
        """What this pass made and is alive now is kept for the backward pass; so it was at the peak, in the loss."""
        made = [s for s in self.stored.values() if s.forward == self.forwards]
        for s in made:
            if s.category == "temporary":
                copy = s.made_by in CASTS and s.shape in weights and s.dtype == "bfloat16"
                self.move(s, "weight copies" if copy else "saved activations")
                if self.at_peak["forward"] == self.forwards:
                    self.peaks["forward"].update({"temporary": -s.bytes, s.category: s.bytes})
        return made


# ---- torch.compile without its code generator


class Pieces(torch.fx.Interpreter):
    """Runs a graph of Inductor's node by node. What Inductor would fuse into the next kernel takes no memory."""

    def __init__(self, graph, watch: Watch):
        super().__init__(graph)
        self.watch = watch

    def run_node(self, node):
        where = re.search(r"blocks\D+(\d+)", str(node.meta.get("nn_module_stack", "")))
        self.watch.layer = int(where[1]) if where else None
        self.watch.fused = fuses(node) and all(fuses(user) for user in node.users)
        try:
            out = super().run_node(node)
            if torch.Tag.pointwise in getattr(node.target, "tags", ()):
                self.watch.pointwise[self.watch.phase] += out.numel()
            return out
        finally:
            self.watch.layer, self.watch.fused = None, False


def fuses(node) -> bool:
    """Whether Inductor makes this operator part of a kernel of its own: all but products, and what has no fusion."""
    tags = getattr(node.target, "tags", ())
    view = getattr(node.target, "is_view", False)
    return torch.Tag.pointwise in tags or torch.Tag.reduction in tags or view or node.target in FUSED


FUSED = {
    torch.ops.aten._to_copy.default, torch.ops.prims.convert_element_type.default, torch.ops.aten.sum.dim_IntList,
    torch.ops.aten.mean.dim, torch.ops.aten.amax.default, torch.ops.aten.cat.default, torch.ops.aten.embedding.default,
    torch.ops.aten.slice_scatter.default, torch.ops.aten.full.default, torch.ops.aten.clone.default,
}  # fmt: skip


class Compiler:
    """A backend for torch.compile: Inductor until it would write kernels, then the graphs run on fake tensors."""

    def __init__(self, watch: Watch, kernels: dict | None = None):
        self.watch, self.graphs, self.late, self.kernels = watch, collections.Counter(), 0, kernels

    def __call__(self, graph, inputs):
        from torch._inductor.compile_fx import compile_fx  # slow to import

        self.graphs[self.watch.phase] += 1
        self.late += self.watch.step > 0
        # folding constants and measuring whether to pad products would run operators on the device
        config = {"joint_graph_constant_folding": False, "shape_padding": False}
        return compile_fx(graph, inputs, inner_compile=self.inner, config_patches=config)

    def inner(self, graph, inputs, **how):
        if self.kernels is not None:
            write_kernels(graph, inputs, how, self.kernels)

        def run(args):
            return Pieces(graph, self.watch).boxed_run(args)

        run._boxed_call = True
        return run


# ---- Inductor's kernels for an H100, compiled by Triton without a GPU

CARD = SimpleNamespace(
    name="NVIDIA H100", major=9, minor=0, multi_processor_count=132, warp_size=32, regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448, total_memory=84_900_000_000, L2_cache_size=50 * 2**20, gcnArchName="",
)  # fmt: skip


@contextlib.contextmanager
def as_on_h100():
    """Inside, Inductor and Triton see one H100."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.runtime import triton_helpers
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    target = GPUTarget("cuda", 90, 32)
    driver.set_active(SimpleNamespace(get_current_target=lambda: target, get_active_torch_device=lambda: "cuda:0"))
    card, zero = lambda *_: CARD, lambda *_: 0
    answers = [(CudaInterface, {
        "is_available": lambda: True, "is_bf16_supported": lambda *_, **__: True, "current_device": zero,
        "get_device_properties": card, "get_compute_capability": lambda *_: 90,
    }), (CudaInterface.Worker, {"get_device_properties": card})]  # fmt: skip
    cuda = {"get_device_properties": card, "current_device": zero, "get_device_capability": lambda *_: (9, 0)}
    with contextlib.ExitStack() as stack:
        for owner, functions in answers:
            for name, f in functions.items():
                stack.enter_context(mock.patch.object(owner, name, staticmethod(f)))
        stack.enter_context(mock.patch.multiple(torch.cuda, device_count=lambda: 1, **cuda))
        stack.enter_context(mock.patch.object(triton_helpers, "set_driver_to_gpu", lambda: None))
        stack.enter_context(mock.patch.object(torch._C, "_cuda_getCurrentRawStream", zero, create=True))
        for f in vars(torch.utils._triton).values():  # torch looked for Triton before, and remembers
            getattr(f, "cache_clear", lambda: None)()
        yield target


def write_kernels(graph, inputs, how: dict, kernels: dict) -> None:
    """Let Inductor write the kernels of a graph; source -> name of each is added to `kernels`."""
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.compile_fx import compile_fx_inner

    def take(self, name, source, device_str="cuda"):
        kernels[source] = name

    with as_on_h100(), mock.patch.object(AsyncCompile, "triton", take), config.patch(force_disable_caches=True):
        compile_fx_inner(graph, inputs, **how)


def compile_kernels(kernels: dict) -> dict:
    """Compile every configuration of every kernel for sm_90: how many, and the largest spill of registers."""
    import triton
    from torch._inductor.async_compile import _load_triton_kernel_from_source as load
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    found, programs = [], 0
    with as_on_h100() as target, tempfile.TemporaryDirectory() as place:
        for source, name in kernels.items():
            kernel = load(name, source)
            for settings in kernel.configs:
                meta = kernel._create_compile_meta(settings)
                program = ASTSource(kernel.fn, meta["signature"], meta["constants"], meta["configs"][0])
                options = kernel._create_compile_options(settings, meta)
                (file := Path(place) / "kernel.ptx").write_bytes(
                    triton.compile(program, target, options).asm["ptx"].encode()
                )
                call = [get_ptxas(90).path, "-v", "-arch=sm_90a", file, "-o", file.with_suffix(".cubin")]
                said = subprocess.run(call, capture_output=True, text=True, check=True).stderr
                found.append((int(re.search(r"(\d+) bytes spill stores", said)[1]), name))
                programs += 1
    spilled = sorted({name: n for n, name in sorted(found) if n}.items(), key=lambda i: -i[1])
    return {"kernels": len(kernels), "configurations": programs, "spilled_bytes": dict(spilled)}


# ---- the rehearsal


def rehearse(args: Rehearse, rank: int) -> dict:
    """Everything that one rank does in two steps, an evaluation and sampling; a dictionary for JSON."""
    plan = resolve(args.recipe, depth=args.depth, **settings_from_text(args.set))
    T, device, team = plan.model.sequence_len, torch.device("cuda:0"), Ranks(rank, args.world)
    rows = plan.batch_tokens // T // args.world
    if plan.recipe.architecture == "gpt2" or args.device_batch < 1 or rows % args.device_batch:
        raise UserError(f"device_batch {args.device_batch} must divide the {rows} rows of a rank; gpt2 has none")
    rows = min(rows, 2 * args.device_batch)  # a third forward pass needs no more memory than the second
    watch = Watch(args.world)
    kernels = {} if args.compile and rank == 0 and importlib.util.find_spec("triton") else None
    compiler = Compiler(watch, kernels) if args.compile else None
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", FutureWarning)
        join(rank, args.world, stack)
        stack.enter_context(stand_ins(args.kernel, args.compile))
        budget = 0.9 if sizes_of(args, plan)["recompute"] else 1.0
        stack.enter_context(partitioner.patch(activation_memory_budget=budget))
        stack.enter_context(FakeTensorMode())
        stack.callback(attention.window_mask.cache_clear)  # it holds fake masks
        stack.enter_context(watch)
        with device:  # recipes.make_model moves the model there from `meta`, which fake tensors do not allow
            model = GPT(plan.model, torch.bfloat16, torch.bfloat16)
        model.init_weights()
        watch.category = "optimizer"
        optimizer = make_optimizer(model, plan, ns_dtype=torch.bfloat16, ranks=team.pair)
        watch.category = "buffers"
        model.rope(T, device)
        if args.kernel == "sdpa":  # torch.compile makes constants outside the fake mode, so they must be there
            attention.window_mask(T, T, plan.model.short_window, device)
        eight = fp8.convert(model) if args.fp8 else None
        forward = torch.compile(model, dynamic=False, backend=compiler) if compiler else model
        if compiler:
            optimizer.muon_update = torch.compile(optim.muon_update, dynamic=False, backend=compiler)
        kept = two_steps(watch, plan, model, forward, optimizer, eight, rows, args, team)
        evaluate(watch, model, eight, min(args.device_batch, 64), T, device)
    return summary(args, plan, rank, watch, compiler, kept) | {"sm_90": compile_kernels(kernels) if kernels else {}}


def sizes_of(args: Rehearse, plan) -> dict:
    """The arguments of cost.memory_estimate."""
    sizes = step_sizes(plan, B=args.device_batch, world=args.world, fp8=args.fp8) | {"compiled": args.compile}
    return sizes | {"recompute": must_recompute(1e9 * args.memory, plan, **sizes)}


def join(rank: int, world: int, stack: contextlib.ExitStack) -> None:
    """A group of `world` ranks in which this process is alone: torch's fake backend only looks at its arguments."""
    if world > 1:
        import torch.distributed._tools.fake_collectives  # noqa: F401 - lets collectives take fake tensors
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
        stack.callback(dist.destroy_process_group)


def two_steps(watch: Watch, plan, model, forward, optimizer, eight, rows: int, args: Rehearse, team: Ranks) -> list:
    """Two steps as train.take_step makes them; returns what the forward pass keeps."""
    T, device = plan.model.sequence_len, torch.device("cuda:0")
    weights = {shape for p in model.parameters() if p.ndim == 2 for shape in (tuple(p.shape), tuple(p.shape)[::-1])}
    kept = []

    def watched(inputs, targets):
        watch.begin("forward")
        loss = forward(inputs, targets)
        kept[:] = [asdict(s) for s in watch.end_of_forward(weights)]
        watch.begin("backward")
        return loss

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: watch.move(watch.of(p.grad), "gradients"))
    if not args.compile:
        for i, block in enumerate(model.blocks):
            block.register_forward_pre_hook(lambda *_, i=i: setattr(watch, "layer", i))  # until the next layer
    for step in range(2):
        watch.step = step
        watch.begin("data", "buffers")
        batch = torch.zeros(rows, T + 1, dtype=torch.long, device=device)
        train.forward_backward(watched, batch, args.device_batch, team)
        watch.begin("optimizer")
        optimizer.step(plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step))
        optimizer.zero_grad()
        if eight:
            watch.begin("fp8 refresh")
            eight.refresh()
    return kept


@torch.no_grad()
def evaluate(watch: Watch, model, eight, rows: int, T: int, device) -> None:
    """Losses of validation rows, logits of a text longer than T, and sampling with a cache."""
    with eight.off() if eight else contextlib.nullcontext():
        watch.begin("evaluation")
        idx = torch.zeros(rows, T, dtype=torch.long, device=device)
        model(idx, idx, reduction="none").double().sum().item()
        watch.begin("longer text")
        model(torch.zeros(1, T + T // 2, dtype=torch.long, device=device))
        watch.begin("sampling")
        cache = attention.Cache()
        for _ in range(3):
            sample.next_logits(model, [0] * (9 + cache.length), cache)


def summary(args: Rehearse, plan, rank: int, watch: Watch, compiler: Compiler | None, kept: list) -> dict:
    """The result of one rank."""
    B, T, C, L = args.device_batch, plan.model.sequence_len, plan.model.n_embd, plan.model.n_layer
    one = 2 * B * T * C  # bytes of (B, T, C) in bfloat16
    saved = [s for s in kept if s["category"] == "saved activations"]
    phase = max(TRAINING, key=lambda p: watch.peaks[p].total())
    layers = {i: collections.Counter() for i in (L // 2, L // 2 + 1) if i < L}  # one of them has a value embedding
    for s in saved:
        if s["layer"] in layers:
            layers[s["layer"]][f"{s['made_by']} {s['dtype']} {list(s['shape'])}"] += s["bytes"] / one
    sizes = sizes_of(args, plan)
    estimate = memory_estimate(plan.params, **sizes)
    return {
        "rank": rank,
        "recompute": sizes["recompute"],
        "peak": {"bytes": watch.peaks[phase].total(), "phase": phase},
        "estimate": {"bytes": estimate.total, "by": asdict(estimate)},
        "phases": {p: dict(+by) for p, by in watch.peaks.items()},
        "largest_temporary": watch.largest,
        "kept": {"bytes": sum(s["bytes"] for s in saved), "a_layer": sum(s["bytes"] for s in saved) / L / one},
        "layers": {str(i): {name: round(n, 3) for name, n in c.items()} for i, c in layers.items()},
        "parameters": 2 * sum(plan.params[k] for k in ("wte", "value_embeds")) + 4 * plan.params["scaling"],  # bytes
        "communication": {kind: {"calls": n // 2, "bytes": b // 2} for kind, (n, b) in watch.sent.items()},
        "operators": {p: count.total() for p, count in watch.ops.items()},
        "calls": {p: {op: n for op, n in watch.ops[p].items() if PRODUCT.search(op)} for p in ("forward", "backward")},
        "pointwise": dict(watch.pointwise),
        "float64": dict(watch.float64),
        "graphs": dict(compiler.graphs) if compiler else {},
        "compiled_late": compiler.late if compiler else 0,
        "breaks": dict(torch._dynamo.utils.counters["graph_break"]),
    }


PRODUCT = re.compile(r"mm|fa4|attn|attention")  # what a GPU's matrix units compute
TRAINING = ("forward", "backward", "optimizer", "fp8 refresh")


def problems(args: Rehearse, found: dict) -> list[str]:
    """What a person should know before renting GPUs; empty if all is well."""
    out = []
    if args.compile and (found["graphs"].get("forward") != 1 or found["breaks"]):
        why = "; ".join(found["breaks"])[:300]
        out.append(f"torch.compile makes {found['graphs'].get('forward', 0)} graphs of the model and not 1: {why}")
    if found["compiled_late"]:
        out.append(f"{found['compiled_late']} compilations after the first step")
    for where, n in found["float64"].items():
        if where.split(":")[0] in TRAINING:
            out.append(f"float64 on the GPU: {where}, {n} tensors")
    if args.world > 1:
        sent = {kind: found["communication"].get(kind, {}).get("bytes", 0) for kind in ("reduce_scatter", "allgather")}
        least = 0.999 * found["parameters"] * (args.world - 1) / args.world
        for kind, n in sent.items():
            if n < least:
                out.append(f"{kind} sends {n / 1e9:.3f} GB a step, and the parameters need {least / 1e9:.3f} GB")
    peak, estimate = found["peak"]["bytes"], found["estimate"]["bytes"]
    if abs(estimate / peak - 1) > TOLERANCE:
        out.append(f"the peak is {peak / 1e9:.2f} GB, and cost.py estimates {estimate / 1e9:.2f} GB")
    return out


# ---- the page


def page(args: Rehearse, found: dict) -> list[str]:
    """The result of one rank for people. GB are 1e9 bytes."""
    gb = lambda n: f"{n / 1e9:.2f} GB"
    peak, estimate = found["peak"], found["estimate"]["bytes"]
    how = f"{'compiled' if args.compile else 'eager'}, {'fp8' if args.fp8 else 'bfloat16'}, attention by {args.kernel}"
    how += ", recomputing" if found["recompute"] else ""
    who = f"{args.recipe}, depth {args.depth}, rank {found['rank']} of {args.world}"
    out = [f"{who}, device batch {args.device_batch}, {how}"]
    out.append(f"  peak memory {gb(peak['bytes'])}, in the {peak['phase']}; cost.py estimates {gb(estimate)} "
               f"({estimate / peak['bytes'] - 1:+.1%})")  # fmt: skip
    parts = sorted(found["phases"][peak["phase"]].items(), key=lambda i: -i[1])
    out.append("    of it " + ", ".join(f"{k} {n / 1e9:.2f}" for k, n in parts))
    phases = [(p, sum(by.values())) for p, by in found["phases"].items() if by and p != "data"]
    out.append("    peaks " + ", ".join(f"{p} {n / 1e9:.2f}" for p, n in phases))
    size, name, shape = found["largest_temporary"]
    out.append(f"    largest temporary {gb(size)}: {name} {list(shape)}")
    kept = found["kept"]
    out.append(f"  kept for the backward pass {gb(kept['bytes'])} = {kept['a_layer']:.2f} (B, T, C) a layer")
    for i, parts in found["layers"].items():
        out.append(f"    layer {i}: {sum(parts.values()):.2f} (B, T, C), as")
        out += [f"      {n:6.3f}  {name}" for name, n in sorted(parts.items(), key=lambda i: -i[1]) if n >= 0.01]
    sent = [f"{kind} {one['calls']} calls, {one['bytes'] / 1e9:.3f} GB" for kind, one in found["communication"].items()]
    out.append("  sent by this rank in a step: " + ("; ".join(sent) or "nothing"))
    out.append("  operators: " + ", ".join(f"{p} {n:,}" for p, n in found["operators"].items()))
    if args.compile:
        graphs = ", ".join(f"{p} {n}" for p, n in found["graphs"].items())
        breaks = sum(found["breaks"].values())
        out.append(f"  graphs: {graphs}; breaks {breaks}; compiled after the first step {found['compiled_late']}")
        if made := found["sm_90"]:
            spilled = "; ".join(f"{name} {n:,} bytes" for name, n in made["spilled_bytes"].items()) or "none"
            out.append(f"  kernels for sm_90: {made['kernels']}, compiled in {made['configurations']} configurations; "
                       f"spilled registers: {spilled}")  # fmt: skip
        elif found["rank"] == 0:
            out.append(f"  kernels for sm_90 are not compiled here: pip install triton==3.7.1, or see {RECORDED}")
    wrong = problems(args, found)
    return out + ([f"  PROBLEM: {line}" for line in wrong] or ["  no problem found"])


def main(args: Rehearse) -> None:
    fake_cuda()
    ranks = []
    for rank in sorted({0, args.world - 1}):
        ranks.append(rehearse(args, rank))
        print("\n".join(page(args, ranks[-1])), flush=True)
    if args.out:
        made = {"torch": torch.__version__, "commit": git_commit(), "command": ["tools/rehearse.py", *sys.argv[1:]]}
        write_json(Path(args.out), {"made": made, "arguments": asdict(args), "ranks": ranks})
    if any(problems(args, found) for found in ranks):
        sys.exit(1)


if __name__ == "__main__":
    command(main)
