"""State of the whole process: torch's settings, random generators, warning filters; snapshot and restore."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from harness.process.monkeypatches import holders, put_back, replaced

CUDNN: Any = torch.backends.cudnn  # what sets the precision of its parts has no annotations
DENORMAL = torch.full((1,), 1e-310, dtype=torch.float64)
"""Zero to a processor that flushes such numbers."""
ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "PYTHONHASHSEED",
)
"""Variables by which a user chooses devices, threads and seeds; libraries that are imported late set others."""

FUNCTIONS = "functions of torch and of the references' libraries"
SHOWN = 3


def settings() -> dict[str, Any]:
    """Process-wide settings that a model has no business changing."""
    return {
        FUNCTIONS: holders(),
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "threads": torch.get_num_threads(),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "cuDNN deterministic": torch.backends.cudnn.deterministic,
        "cuDNN enabled": torch.backends.cudnn.enabled,
        "cuDNN precision": (CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision),
        "denormal numbers": bool(DENORMAL.add(0.0).any()),
        "oneDNN enabled": torch.backends.mkldnn.flags is not None and torch._C._get_mkldnn_enabled(),
        "flash attention": torch.backends.cuda.flash_sdp_enabled(),
        "memory-efficient attention": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "math attention": torch.backends.cuda.math_sdp_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "anomaly detection": torch.is_anomaly_enabled(),
        "cyclic garbage collection": gc.isenabled(),
        "level below which logging is disabled": logging.root.manager.disable,
        "level of the root logger": logging.root.level,
        "NumPy's handling of errors": np.geterr(),
        "NumPy's print options": np.get_printoptions(),
        "torch's print options": dict(vars(torch._tensor_str.PRINT_OPTS)),
        "sums of float16 in float16": torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        "sums of bfloat16 in bfloat16": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "sharing between processes": torch.multiprocessing.get_sharing_strategy(),
        "what an interrupt does": signal.getsignal(signal.SIGINT),
        **{f"the environment's {name}": os.environ.get(name) for name in ENVIRONMENT},
        "working directory": os.getcwd(),
        "hooks on all modules": tuple(key for hooks in _hooks() for key in hooks),
        "silenced warnings": sum(_silences_all(f) for f in warnings.filters),
    }


def _hooks() -> list[dict[int, Any]]:
    """The dictionaries of hooks that torch calls for every module of the process."""
    module = torch.nn.modules.module
    names = ("forward", "forward_pre", "backward", "backward_pre")
    return [getattr(module, f"_global_{name}_hooks") for name in names]


def _silences_all(entry: tuple[Any, ...]) -> bool:
    """Whether a warning filter ignores warnings whatever they say and wherever they come from.

    Narrower ones are added by libraries that are imported late, which is no fault of the model.
    """
    action, message, category, module, line = entry
    return action == "ignore" and message is None and module is None and line == 0 and issubclass(UserWarning, category)


def draw() -> dict[str, float]:
    """A number from each process-wide generator."""
    return {"torch": float(torch.rand(())), "Python": random.random(), "NumPy": float(np.random.random())}


@contextmanager
def kept() -> Iterator[None]:
    """All three generators put back after the block."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def generators(start: int) -> Iterator[None]:
    """All three generators started from ``start``, and put back after the block."""
    with kept():
        torch.manual_seed(start)
        random.seed(start)
        np.random.seed(start)
        yield


def changes(before: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of the settings that are others than in ``before``, and what became of each."""
    if others := replaced(before[FUNCTIONS]):
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        yield FUNCTIONS, f"{', '.join(others[:SHOWN])}{more} replaced by something else"
    for name, value in settings().items():
        if name != FUNCTIONS and value != before[name]:
            yield name, f"{name} was {before[name]}, is {value}"


def restore(before: Mapping[str, Any]) -> None:
    """Put torch's settings back to what `settings` gave."""
    put_back(before[FUNCTIONS])
    torch.set_default_dtype(before["default dtype"])
    torch.set_default_device(None if before["default device"] == "cpu" else before["default device"])
    torch.set_num_threads(before["threads"])
    torch.set_grad_enabled(before["gradient mode"])
    torch.use_deterministic_algorithms(before["deterministic algorithms"])
    torch.set_float32_matmul_precision(before["float32 matmul precision"])
    torch.backends.cudnn.benchmark = before["cuDNN benchmark"]
    torch.backends.cudnn.deterministic = before["cuDNN deterministic"]
    torch.backends.cudnn.enabled = before["cuDNN enabled"]
    if (CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision) != before["cuDNN precision"]:
        CUDNN.allow_tf32 = before["cuDNN precision"] == ("tf32", "tf32")  # the older switch sets both, and itself
        for part, precision in zip((CUDNN.conv, CUDNN.rnn), before["cuDNN precision"], strict=True):
            if part.fp32_precision != precision:
                part.fp32_precision = precision
    torch.set_flush_denormal(not before["denormal numbers"])
    torch._C._set_mkldnn_enabled(before["oneDNN enabled"])
    torch.backends.cuda.enable_flash_sdp(before["flash attention"])
    torch.backends.cuda.enable_mem_efficient_sdp(before["memory-efficient attention"])
    torch.backends.cuda.enable_math_sdp(before["math attention"])
    torch.set_autocast_enabled("cpu", before["autocast"])
    torch.autograd.set_detect_anomaly(before["anomaly detection"])
    (gc.enable if before["cyclic garbage collection"] else gc.disable)()
    logging.disable(before["level below which logging is disabled"])
    logging.root.setLevel(before["level of the root logger"])
    np.seterr(**before["NumPy's handling of errors"])
    np.set_printoptions(**before["NumPy's print options"])
    vars(torch._tensor_str.PRINT_OPTS).update(before["torch's print options"])
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = before["sums of float16 in float16"]
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = before["sums of bfloat16 in bfloat16"]
    torch.multiprocessing.set_sharing_strategy(before["sharing between processes"])
    if signal.getsignal(signal.SIGINT) != before["what an interrupt does"]:
        signal.signal(signal.SIGINT, before["what an interrupt does"])
    for name in ENVIRONMENT:
        value = before[f"the environment's {name}"]
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for hooks in _hooks():
        for key in [k for k in hooks if k not in before["hooks on all modules"]]:
            del hooks[key]
    if os.getcwd() != before["working directory"]:
        os.chdir(before["working directory"])


@contextmanager
def preserved() -> Iterator[None]:
    """Put torch's settings, all generators and the warning filters back after the block."""
    before = settings()
    try:
        with warnings.catch_warnings(), kept():
            yield
    finally:
        restore(before)
