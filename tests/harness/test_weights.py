import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import nn

from autoresearch.harness.weights import check, load, make_room, save

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")]),
]


class Model(nn.Module):
    """Tied weights, a recurrent layer, views of one memory, buffers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.tied = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.tied.weight = self.first.weight
        self.recurrent = nn.GRU(4, 3, bidirectional=True)
        whole = torch.randn(6, 4)
        self.left, self.right = nn.Parameter(whole[:4]), nn.Parameter(whole[2:].T)
        again = torch.randn(2, 6)
        self.long, self.square = nn.Parameter(again), nn.Parameter(again.view(3, 4))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("also_empty", torch.zeros(0, 3))
        self.register_buffer("scratch", torch.randn(3), persistent=False)


@pytest.mark.parametrize("device", DEVICES)
def test_all_that_is_saved_is_loaded(device, tmp_path):
    model, other = Model().to(device), Model().to(device)
    other.count.fill_(0)
    save(model, tmp_path / "weights")
    load(other, load_file(tmp_path / "weights", device=device))
    saved, loaded = model.state_dict(), other.state_dict()
    assert saved.keys() == loaded.keys() and "scratch" not in saved
    for name in saved:
        assert torch.equal(saved[name], loaded[name]), name
    assert other.tied.weight is other.first.weight
    names = load_file(tmp_path / "weights").keys()
    assert names == saved.keys() - {"tied.weight"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_saving_finds_the_room_that_was_made_for_it(tmp_path):
    def allocations() -> int:
        return torch.cuda.host_memory_stats()["num_host_alloc"]

    before = allocations()
    make_room(Model().to("meta"))
    made = allocations()
    assert made > before
    save(Model().to("cuda"), tmp_path / "weights")
    assert allocations() == made


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_without_room_saving_does_without(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("CUDA error: out of memory")

    model = Model().to("cuda")
    monkeypatch.setattr(torch, "empty", full)
    save(model, tmp_path / "weights")
    monkeypatch.undo()
    assert torch.equal(load_file(tmp_path / "weights")["left"], model.left.cpu())


def test_no_room_is_taken_for_what_is_too_large():
    make_room(nn.Linear(2**16, 2**15, device="meta"))  # or without CUDA this would fail


def test_a_file_of_safetensors_own_is_loaded(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.z, self.a = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.a.weight = self.z.weight

    model, other = Tied(), Tied()
    save_model(model, str(tmp_path / "weights"))
    load(other, load_file(tmp_path / "weights"))
    assert torch.equal(model.z.weight, other.a.weight)


OTHERS = [
    (nn.Linear(2, 3), "weights are missing in the file: bias", "has weights that this one has not: bias"),
    (
        nn.ModuleDict({"weight": nn.Linear(2, 3)}),
        "weights are missing in the file: weight.weight, weight.bias",
        "has weights that this one has not: weight.bias",
    ),
    (nn.ParameterDict(), "no such weights as are in the file: weight", "has no such weights: weight"),
    (
        nn.Linear(3, 3, bias=False),
        "size mismatch for weight",
        r"weight is \[3, 2\], but in the model that build_model makes \[3, 3\]",
    ),
]


@pytest.mark.parametrize(("other", "message", "before"), OTHERS)
def test_weights_that_do_not_fit_are_refused(other, message, before, tmp_path):
    model = nn.Linear(2, 3, bias=False)
    save(model, tmp_path / "weights")
    with pytest.raises(RuntimeError, match=message):
        load(other, load_file(tmp_path / "weights"))
    with pytest.raises(RuntimeError, match=before):
        check(model, other.to("meta"))


def test_shapes_alone_tell_whether_weights_fit():
    """Also when what was tied is not any more, as on the meta device it may not be."""
    check(Model(), Model().to("meta"))
    with torch.device("meta"):
        check(Model(), Model())
