"""On a GPU: the kernels against plain references, bfloat16 against float32, and what is compiled, once."""

import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoresearch import knobs
from tests.train_core import references
from tests.train_core.cores import FakeRun, disturbed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SMALL: dict[str, knobs.Value] = {"DEPTH": 3, "HEAD_DIM": 64, "ASPECT": 64, "CONTEXT": 1024, "WINDOW_DIVISOR": 8}
BFLOAT16 = {"atol": 0.02, "rtol": 0.02}  # whose rounding is 0.004


def graphs() -> int:
    """How many have been compiled so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture(params=["general", "hopper"])
def operators(request, monkeypatch):
    """With those of the harness, which are taken on Hopper and for what divides well, and without."""
    if request.param == "hopper":
        importlib.import_module("autoresearch.harness.hopper")
    else:
        for name in ("windowed_attention", "squared_relu_mlp"):
            monkeypatch.setattr(torch.ops.autoresearch, name, None, raising=False)


@pytest.mark.parametrize("head", [32, 64, 128])
@pytest.mark.parametrize("length", [1, 100, 256])
@pytest.mark.parametrize(("dtype", "share"), [(torch.bfloat16, 0.5), (torch.float32, 0.5), (torch.float32, 0.0)])
def test_the_kernel_rotates_and_normalizes(load, head, length, dtype, share):
    core = load(CONTEXT=256, HEAD_DIM=head, ASPECT=head, DEPTH=3, LATE_SHARE=share)
    table = core.rotary_table().cuda()
    x = torch.randn(3, length, 2 * core.HEADS, head, device="cuda").to(dtype).requires_grad_()
    ours, exact = core.rotated_norm(x, table), references.rotated_norm(core, x)
    down = [torch.randn_like(out) for out in ours]
    (mine,) = torch.autograd.grad(ours, x, down)
    (theirs,) = torch.autograd.grad(exact, x, [gradient.double() for gradient in down])
    close = BFLOAT16 if dtype == torch.bfloat16 else {"atol": 1e-4, "rtol": 1e-4}
    for out, expected in zip(ours, exact, strict=True):
        assert out.dtype == dtype and out.shape == (3, length, core.HEADS, head)
        torch.testing.assert_close(out.double(), expected, **close)
    torch.testing.assert_close(mine.double(), theirs.double(), **close)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize(
    ("length", "window", "head"),
    [
        (1024, 128, 64), (1024, 256, 128), (1024, 1024, 64), (384, 128, 32), (100, 128, 64), (129, 128, 64),
        (64, 1, 64), (4096, 128, 64),
    ],
)  # fmt: skip
def test_attention_in_every_situation(load, length, window, head):
    core = load(SMALL)
    inputs = [torch.randn(2, length, 3, head, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    with torch.inference_mode():
        scored = core.attend(*inputs, window)
    for tensor in inputs:
        tensor.requires_grad_()
    exact = references.dense_attention(*inputs, window)
    down = torch.randn_like(scored)
    theirs = torch.autograd.grad(exact, inputs, down.double())
    torch.testing.assert_close(scored.double(), exact, **BFLOAT16)
    out = core.attend(*inputs, window)
    torch.testing.assert_close(out.double(), exact, **BFLOAT16)
    for mine, gradient in zip(torch.autograd.grad(out, inputs, down), theirs, strict=True):
        assert (mine.double() - gradient.double()).norm() < 0.02 * gradient.double().norm() + 1e-3


@pytest.mark.parametrize("vocabulary", [256, 300, 8192])
@pytest.mark.parametrize("size", [0.1, 3.0])
def test_the_loss_and_its_gradients(load, vocabulary, size):
    core = load(VOCAB_SIZE=vocabulary)
    x = torch.randn(500, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = (size * torch.randn(vocabulary, 64, device="cuda")).requires_grad_()
    targets = torch.randint(vocabulary, (500,), device="cuda")
    ours = core.CrossEntropy.apply(x, weight, targets)
    logits = (x.double() @ weight.bfloat16().double().T).bfloat16().double()  # as the product is rounded
    exact = F.cross_entropy(core.SOFTCAP * torch.tanh((x.double() @ weight.double().T) / core.SOFTCAP), targets)
    rounded = F.cross_entropy(core.SOFTCAP * torch.tanh(logits / core.SOFTCAP), targets)
    assert ours.dtype == torch.float32 and ours.item() == pytest.approx(rounded.item(), abs=1e-3)
    mine, theirs = (torch.autograd.grad(3 * loss, (x, weight)) for loss in (ours, exact))
    for gradient, expected in zip(mine, theirs, strict=True):
        assert gradient.dtype == expected.dtype
        assert (gradient.double() - expected.double()).norm() < 0.02 * expected.double().norm()


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("rows_of_pairs", [0, 4])
def test_it_agrees_with_float32_on_the_cpu(load, rows_of_pairs):
    core = load(SMALL, NGRAM_ROWS=rows_of_pairs)
    reference = disturbed(core)
    model = core.build_model(torch.device("cuda"))
    model.load_state_dict(reference.state_dict())
    assert model.dtype == torch.bfloat16 and {weight.dtype for weight in model.parameters()} == {torch.float32}
    tokens, targets = torch.randint(0, 256, (2, 4, core.CONTEXT))
    expected = reference.loss(tokens, targets)
    expected.backward()
    loss = model.loss(tokens.cuda(), targets.cuda())
    loss.backward()
    with torch.inference_mode():
        logits = model(tokens.cuda())
    assert logits.dtype == torch.float32
    scored = F.cross_entropy(logits.flatten(0, 1), targets.cuda().flatten())
    assert loss.item() == pytest.approx(expected.item(), abs=0.02)
    assert scored.item() == pytest.approx(loss.item(), abs=0.005)
    for (name, mine), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        similarity = F.cosine_similarity(mine.grad.cpu().flatten(), theirs.grad.flatten(), dim=0)
        assert similarity > 0.97, name


@pytest.mark.usefixtures("operators")
def test_no_prediction_depends_on_a_later_token(load):
    core = load(SMALL, NGRAM_ROWS=4)
    model = disturbed(core, torch.device("cuda"))
    tokens = torch.randint(0, 256, (1, core.CONTEXT), device="cuda")
    with torch.inference_mode():
        before = model(tokens)
        for position in (1, 127, 600, core.CONTEXT - 1):
            changed = tokens.clone()
            changed[0, position] = (changed[0, position] + 1) % 256
            after = model(changed)
            assert torch.equal(before[:, :position], after[:, :position])
            assert not torch.equal(before[:, position], after[:, position])


@pytest.mark.parametrize("shape", [(128, 128), (256, 64), (64, 256)])
def test_muon_steps_as_on_the_cpu(load, shape):
    core = load()
    start, gradients = torch.randn(3, *shape), torch.randn(4, 3, *shape)
    moved = []
    for device in ("cpu", "cuda"):
        weights = [nn.Parameter(weight.to(device, copy=True)) for weight in start]
        muon = core.Muon(list(weights), 0.02, 0.3)
        for number, gradient in enumerate(gradients):
            for weight, one in zip(weights, gradient, strict=True):
                weight.grad = one.to(device)
            with torch.no_grad():
                muon.step(number / 4)
        moved.append(torch.stack([weight.detach().cpu() for weight in weights]) - start)
    assert F.cosine_similarity(*(move.flatten() for move in moved), dim=0) > 0.995  # in bfloat16 on CUDA
    assert moved[1].norm().item() == pytest.approx(moved[0].norm().item(), rel=0.02)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("rows_of_pairs", [0, 4])
def test_it_trains_compiled_and_compiles_nothing_on_the_clock(load, rows_of_pairs):
    core = load(SMALL, BATCH_ROWS=16, MICRO_ROWS=8, NGRAM_ROWS=rows_of_pairs)
    run = FakeRun(120)
    run.device = torch.device("cuda")
    compiled: list[int] = []
    start = run.start

    def started(model: nn.Module) -> None:
        start(model)
        compiled.append(graphs())

    run.start = started  # type: ignore[method-assign]
    core.main(run)
    assert graphs() == compiled[0] > 0
    losses: Tensor = torch.stack(run.losses).cpu()
    assert len(losses) == 60  # of two passes each
    assert losses[0].item() == pytest.approx(math.log(256), abs=5e-3)
    assert losses[-5:].mean() < 2.6


def test_warm_up_leaves_no_trace(load):
    core = load(SMALL, BATCH_ROWS=8, MICRO_ROWS=8)
    run = FakeRun(0)
    run.device = torch.device("cuda")
    core.main(run)
    torch.manual_seed(run.seed)
    fresh = core.build_model(run.device).state_dict()
    assert all(torch.equal(run.started[name], tensor) for name, tensor in fresh.items())
