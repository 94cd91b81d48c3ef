"""What the children of a fork server need, imported before they are forked: the server touches no GPU, and no thread
is left of it, since neither survives a fork."""

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

_NEEDED = (
    *(f"autoresearch.harness.{name}" for name in ("train", "score", "serve")),  # and with them torch
    "torch.fx.experimental.symbolic_shapes",  # asked by many an operation on the meta device
    "torch._dynamo",  # asked by torch's optimizers, also where nothing is compiled
)
# Where torch.compile is used: what threads need that are started then, ...
_TRITON = ("triton.compiler.compiler", "triton.language", "triton.runtime.driver")
# ... what its first call imports, as `sys.modules` shows it, and attention kernels.
_COMPILER = (
    "torch._dynamo.backends.cudagraphs",
    "torch._dynamo.repro.after_dynamo",
    "torch._export.db.logging",
    "torch._functorch._aot_autograd.subclass_codegen",
    "torch._higher_order_ops.passes.inline_invoke_subgraph",
    "torch._inductor.async_compile",
    "torch._inductor.choices",
    "torch._inductor.codegen.cpp_wrapper_cpu_array_ref",
    "torch._inductor.codegen.cpp_wrapper_gpu",
    "torch._inductor.codegen.cpp_wrapper_mps",
    "torch._inductor.codegen.cuda.device_op_overrides",
    "torch._inductor.codegen.cuda_combined_scheduling",
    "torch._inductor.codegen.halide",
    "torch._inductor.codegen.memory_planning",
    "torch._inductor.codegen.mps",
    "torch._inductor.codegen.mtia.device_op_overrides",
    "torch._inductor.codegen.pallas",
    "torch._inductor.codegen.python_wrapper_mtia",
    "torch._inductor.codegen.triton",
    "torch._inductor.codegen.wrapper_fxir",
    "torch._inductor.codegen.xpu.xpu_combined_scheduling",
    "torch._inductor.compile_fx",
    "torch._inductor.compiler_bisector",
    "torch._inductor.fx_passes.efficient_conv_bn_eval",
    "torch._inductor.fx_passes.freezing_patterns",
    "torch._inductor.fx_passes.fuse_attention",
    "torch._inductor.fx_passes.mkldnn_fusion",
    "torch._inductor.fx_passes.pad_mm",
    "torch._inductor.fx_passes.post_grad",
    "torch._inductor.hooks",
    "torch._inductor.kernel.flex",
    "torch._inductor.kernel_template_choice",
    "torch._inductor.runtime.caching.interfaces",
    "torch._inductor.runtime.triton_heuristics",
    "torch.distributed.tensor.experimental",
    "torch.export._trace",
    "torch.nn.attention.flex_attention",
    "triton.compiler.code_generator",
    "autoresearch.harness.hopper",
)
# While it is imported: one compile thread, or else a pool of processes would be started; and whoever looks for a GPU is
# told of one, without asking: neither CUDA nor NVML, once woken, does its work in a forked process.
_MEANWHILE = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around all imports."""
    gc.disable()  # what is imported stays: looking through it again and again takes a fifth of the time
    before = {name: os.environ.pop(name) for name in _MEANWHILE if name in os.environ}
    os.environ.update(_MEANWHILE)
    yield
    for name in _MEANWHILE:
        del os.environ[name]
    os.environ.update(before)
    gc.enable()
    gc.freeze()  # or the first collection in a child would copy all memory that it shares with this process


def first() -> None:
    """What all else is built on, and takes longer than the device takes to be known. ImportError if it is not there."""
    importlib.import_module("torch")


def rest(device: str) -> None:
    """What every child needs, and what compiles for a GPU, as far as that is there. ImportError if it cannot be
    imported."""
    if device != "cuda":
        _import(_NEEDED)
        return
    import torch

    there = mock.patch.object(torch.cuda, "_device_count_nvml", lambda: 1, create=True)
    # Threads do what needs little of Python's lock; if one fails, each child does that for itself, or says why not.
    with there, ThreadPoolExecutor() as beside:
        _import(_TRITON, Exception)
        beside.submit(_load_driver)
        beside.submit(_hash_triton)
        _import(_NEEDED)
        _import(_COMPILER, Exception)  # torch moves its parts about; what is missing is imported in time
        with contextlib.suppress(Exception):
            _hash_torch()  # so many small files that a thread would hold up more than it saves


def _import(names: Sequence[str], *suppressed: type[Exception]) -> None:
    for name in names:
        with contextlib.suppress(*suppressed):
            importlib.import_module(name)


def compile_in_parallel(ahead: bool, possible: bool = True) -> None:
    """In a child: as many compile threads as there would be without `preload`. ahead: start their processes now.
    possible: whether processes can share locks; if not, one thread compiles."""
    if not possible:
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if "torch._inductor.async_compile" not in sys.modules:
        return
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile

    config.compile_threads = config.decide_compile_threads()
    if ahead and possible:
        AsyncCompile.warm_pool()


def _load_driver() -> None:
    """Triton's own way to the driver is in C, which it compiles where it finds no cache, as in a sealed process."""
    from triton.runtime import driver

    driver.active.utils  # noqa: B018


def _hash_triton() -> None:
    """A part of compilers' cache keys, which never changes and takes a while: triton keeps it in memory."""
    from triton.runtime.cache import triton_key

    triton_key()


def _hash_torch() -> None:
    """Another one, which torch keeps."""
    from torch._inductor.codecache import torch_key

    torch_key()
