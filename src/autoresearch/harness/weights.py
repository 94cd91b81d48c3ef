"""Weights in a file: parameters and persistent buffers, in safetensors, which runs no code when it is read.

Tensors that are one are written once. Those that merely share memory, as all of a recurrent layer's do on a GPU, are
written one by one.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

_MOST = 2**32  # bytes of weights that are held in page-locked memory, of which the machine has no other use meanwhile


def save(model: nn.Module, path: Path) -> None:
    """Write them. OSError, or what safetensors raises, if that cannot be done."""
    own = model.state_dict()
    alone: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, *_ in _names(own):
        tensor = own[name].detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes and place not in memory
        alone[name] = tensor if whole else tensor.clone()
        memory.add(place)
    save_file(_on_host(alone), path)


def make_room(shapes: nn.Module) -> None:
    """Have page-locked memory ready for `save`, which takes a while to be had: torch keeps what is let go of.

    shapes: the model, on the meta device; if it is too large, nothing is done. RuntimeError if there is not so much.
    """
    _page_locked(shapes.state_dict())


def load(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Put what is `stored` into a model that was built in the same way. RuntimeError if it does not fit."""
    own = model.state_dict()
    if lacking := [name for name, *others in _names(own) if not stored.keys() & {name, *others}]:
        raise RuntimeError(f"weights are missing in the file: {', '.join(lacking[:5])}")
    if unknown := sorted(stored.keys() - own.keys()):
        raise RuntimeError(f"the model has no such weights as are in the file: {', '.join(unknown[:5])}")
    model.load_state_dict(stored, strict=False)


def check(model: nn.Module, built: nn.Module) -> None:
    """RuntimeError if the model's weights would not fit one that was built anew, which may be on the meta device."""
    own, other = model.state_dict(), built.state_dict()
    if missing := sorted(other.keys() - own.keys()):
        raise RuntimeError(f"the model that build_model makes has weights that this one has not: {missing[0]}")
    if unknown := sorted(own.keys() - other.keys()):
        raise RuntimeError(f"the model that build_model makes has no such weights: {unknown[0]}")
    for name, parameter in built.named_parameters():
        if name in own and own[name].shape != parameter.shape:
            there, here = list(parameter.shape), list(own[name].shape)
            raise RuntimeError(f"{name} is {here}, but in the model that build_model makes {there}")


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of those on CUDA, all under way at once; or the same, for whoever writes them to fetch one by one."""
    try:
        copies = _page_locked({name: tensor for name, tensor in tensors.items() if tensor.is_cuda})
    except RuntimeError:
        return dict(tensors)
    for name, copy in copies.items():
        copy.copy_(tensors[name], non_blocking=True)
    if copies:
        torch.cuda.synchronize()
    return {**tensors, **copies}


def _page_locked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Room for tensors of these shapes and types, which a GPU fills by itself; none if that is too much."""
    if sum(tensor.nbytes for tensor in tensors.values()) > _MOST:
        return {}
    return {name: torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for name, one in tensors.items()}


def _names(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """All names of each tensor."""
    found: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        found.setdefault(place if tensor.numel() else name, []).append(name)
    return list(found.values())
