"""Weights in a file: parameters and persistent buffers, in safetensors, which runs no code when it is read.

Tensors that are one are written once. Those that merely share memory, as all of a recurrent layer's do on a GPU, are
written one by one.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn


def save(model: nn.Module, path: Path) -> None:
    """Write them. OSError, or what safetensors raises, if that cannot be done."""
    alone: dict[str, Tensor] = {}
    memory: set[int] = set()
    for [(name, kept), *_] in _tensors(model):
        tensor = kept.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes and place not in memory
        alone[name] = tensor if whole else tensor.clone()
        memory.add(place)
    save_file(alone, path)


def load(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Put what is `stored` into a model that was built in the same way. RuntimeError if it does not fit."""
    for same in _tensors(model):
        if not any(name in stored for name, _ in same):
            raise RuntimeError(f"weights are missing in the file: {same[0][0]}")
    _compare(stored, model)
    model.load_state_dict(stored, strict=False)


def check(model: nn.Module, built: nn.Module) -> None:
    """RuntimeError if the model's weights would not fit one that was built anew, which may be on the meta device."""
    own = model.state_dict()
    if missing := sorted(built.state_dict().keys() - own.keys()):
        raise RuntimeError(f"the model that build_model makes has weights that this one has not: {missing[0]}")
    _compare(own, built)


def _compare(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    known = model.state_dict()
    if unknown := sorted(weights.keys() - known.keys()):
        raise RuntimeError(f"the model that build_model makes has no such weights: {', '.join(unknown[:5])}")
    for name, tensor in weights.items():
        if tensor.shape != known[name].shape:
            there, here = list(known[name].shape), list(tensor.shape)
            raise RuntimeError(f"{name} is {here}, but in the model that build_model makes {there}")


def _tensors(model: nn.Module) -> list[list[tuple[str, Tensor]]]:
    """Each tensor, by all names that it has."""
    found: dict[int, list[tuple[str, Tensor]]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), []).append((name, tensor))
    return list(found.values())
