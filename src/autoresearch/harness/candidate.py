"""The edited file, as a module: imported by path, checked against the contract."""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NAME = "train_core"  # of the module
_RANDOM = {
    *(Tensor.normal_, Tensor.uniform_, Tensor.exponential_, Tensor.bernoulli_, Tensor.random_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
}


class Failure(Exception):
    """The candidate broke the contract; the message is one line that says how."""


class _NoRandomness(TorchFunctionMode):
    """Random initialization of tensors without data is left out: there, it would import torch's compiler, for 1.5 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        tensor = args[0] if args else given.get("tensor")
        if func in _RANDOM and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **given)


def load(source: str) -> ModuleType:
    """Import the file. Whatever it raises goes through."""
    spec = importlib.util.spec_from_file_location(NAME, Path(source))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module  # dataclasses and the compiler look their module up by name
    spec.loader.exec_module(module)
    return module


def check(module: ModuleType, context: int, vocab_size: int) -> None:
    """Failure if a function of the contract is missing, or a constant is not what the house read in the file."""
    for name in ("build_model", "main"):
        if not callable(getattr(module, name, None)):
            raise Failure(f"the file defines no function `{name}`")
    for name, expected in (("CONTEXT", context), ("VOCAB_SIZE", vocab_size)):
        if (actual := getattr(module, name, None)) != expected:
            raise Failure(f"{name} is {actual!r} once imported, but {expected} was read from the file: set it once")


def build(module: ModuleType, device: torch.device) -> nn.Module:
    """The model on `device`. Failure if it is not a module."""
    model = module.build_model(device)
    if not isinstance(model, nn.Module):
        raise Failure(f"build_model returned {type(model).__name__}, not a torch.nn.Module")
    return model


def check_shapes(module: ModuleType) -> nn.Module:
    """The model on the meta device: shapes and types, at no cost in memory. What building raises goes through."""
    with _NoRandomness():
        return build(module, torch.device("meta"))


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the model itself."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def parameter_count(model: nn.Module) -> int:
    """Numbers in all distinct parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def traceback_of(error: BaseException, source: str) -> str:
    """The traceback from the file's first line on, paths shortened, at most 40 lines and 4 KB."""
    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename != source:
        frames = frames.tb_next
    lines = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    text = lines.replace(source, Path(source).name)
    for folder in sorted({entry for entry in sys.path if len(entry) > 1}, key=len, reverse=True):
        text = text.replace(folder.rstrip("/") + "/", "")
    return "\n".join(text.splitlines()[-40:])[-4096:]


def in_a_line(error: BaseException, where: str = "") -> str:
    """Its type, where it was raised, and the first line of what it says."""
    message = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}{where}: {message}"[:300].rstrip(": ")
