"""The training core against plain references: exact parts in float64, and a model that learns as it should."""

import argparse
import ast
import importlib.util
import math
import subprocess
import sys
import typing
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from autoresearch import knobs

SOURCE = Path(__file__).parents[1] / "src" / "autoresearch" / "train_core.py"
TEXT = SOURCE.read_text()
CPU = torch.device("cpu")
TINY: dict[str, knobs.Value] = {"DEPTH": 2, "HEAD_DIM": 32, "ASPECT": 32, "CONTEXT": 64, "VOCAB_SIZE": 256}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def load(tmp_path: Path):
    """Imports the core by path with some knobs set, as an experiment does."""
    names: list[str] = []

    def loaded(changes: dict[str, knobs.Value] | None = None, **more: knobs.Value) -> ModuleType:
        name = f"core_{tmp_path.name}_{len(names)}"
        path = tmp_path / f"{name}.py"
        path.write_text(knobs.assign(TEXT, {**TINY, "BATCH_ROWS": 8, **(changes or {}), **more}))
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        names.append(name)
        spec.loader.exec_module(module)
        return module

    yield loaded
    for name in names:
        del sys.modules[name]
    if torch.cuda.is_available():
        torch._dynamo.reset()  # FlexAttention's compiled variants are shared by all these modules, and limited


class FakeRun:
    """What the harness hands over, for a fixed number of batches of real text: the source of two big modules."""

    def __init__(self, batches: int, seed: int = 0, warmup: bool = True, repeat: bool = False) -> None:
        self.seed, self.device = seed, CPU
        self.total, self.taken = batches, 0
        self.warmup, self.repeat = warmup, repeat
        self.losses: list[Tensor] = []
        self.events: list[str] = []
        self.started: dict[str, Tensor] = {}
        self.saved: nn.Module | None = None
        text = b"".join(Path(str(module.__file__)).read_bytes() for module in (argparse, typing))
        self.text = torch.tensor(list(text))

    @property
    def progress(self) -> float:
        return self.taken / self.total

    def draw(self, rows: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts = torch.randint(0, len(self.text) - context, (rows,), generator=generator)
        row = torch.stack([self.text[start : start + context + 1] for start in starts]).to(self.device)
        return row[:, :-1], row[:, 1:]

    def warmup_batches(self, rows: int, context: int) -> Iterable[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(99)
        while self.warmup:
            yield self.draw(rows, context, generator)

    def start(self, model: nn.Module) -> None:
        self.events.append("start")
        self.started = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def batches(self, rows: int, context: int) -> Iterable[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for number in range(self.total):
            if self.repeat:
                generator.manual_seed(self.seed)
            self.taken = number + 1
            yield self.draw(rows, context, generator)

    def report(self, loss: Tensor) -> None:
        assert not loss.requires_grad
        self.losses.append(loss)

    def save(self, model: nn.Module) -> None:
        self.events.append("save")
        self.saved = model


def disturbed(core: ModuleType, device: torch.device = CPU) -> nn.Module:
    """A model in which every weight counts: at first the blocks add nothing and all logits are nearly zero."""
    torch.manual_seed(0)
    model = core.build_model(device)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape).to(weight))
    return model


# ---------------------------------------------------------------------------------------------------- the file


def test_knobs_are_few_annotated_and_within_their_domains():
    found = knobs.read(TEXT)
    found.pop("MOMENTUM_START"), found.pop("ADAM_EPSILON")  # constants of the method, further down
    assert 25 <= len(found) <= 35
    assert all(knob.note for knob in found.values())
    assert {"CONTEXT", "VOCAB_SIZE", "DEPTH"} <= set(found)
    assert not found["CONTEXT"].domain and not found["VOCAB_SIZE"].domain
    assert sum(knob.domain is not None for knob in found.values()) >= 20
    for knob in found.values():
        if knob.domain and knob.domain.choices:
            assert knob.value in knob.domain.choices, knob
        elif knob.domain:
            assert knob.domain.low <= knob.value <= knob.domain.high, knob


def test_every_bracketed_comment_is_read_as_a_domain():
    found = knobs.read(TEXT)
    for line in TEXT.splitlines():
        name, _, comment = line.partition("  # ")
        if comment.startswith(("[", "{")) and name[:1].isupper():
            assert found[name.split()[0]].domain is not None, line


def test_it_stands_alone():
    imported = set()
    for node in ast.walk(ast.parse(TEXT)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported <= sys.stdlib_module_names | {"torch"}


def test_importing_it_imports_no_compiler(tmp_path):
    (tmp_path / "train_core.py").write_text(TEXT)
    code = "import sys, train_core; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=120).returncode == 0


# ---------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("changes", [{}, {"VOCAB_SIZE": 1000}, {"DEPTH": 5, "ASPECT": 64}])
def test_first_loss_is_that_of_a_uniform_guess(load, changes):
    core = load(changes)
    torch.manual_seed(0)
    model = core.build_model(CPU)
    tokens, targets = torch.randint(0, core.VOCAB_SIZE, (2, 8, core.CONTEXT))
    loss = core.next_token_loss(model, tokens, targets)
    assert loss.item() == pytest.approx(math.log(core.VOCAB_SIZE), abs=1e-3)


def test_logits_have_the_shape_and_type_of_the_contract(load):
    core = load()
    logits = core.build_model(CPU)(torch.zeros(3, 17, dtype=torch.int64))
    assert logits.shape == (3, 17, 256) and logits.dtype == torch.float32


def test_logits_are_capped(load):
    core = load()
    model = disturbed(core)
    with torch.no_grad():
        model.unembedding.weight.mul_(1e4)
        assert model(torch.arange(20)[None]).abs().max() == pytest.approx(core.SOFTCAP)


def test_a_shorter_row_or_another_batch_gives_the_same_logits(load):
    core = load(DEPTH=3)
    model = disturbed(core)
    tokens = torch.randint(0, 256, (4, core.CONTEXT))
    with torch.inference_mode():
        whole = model(tokens)
        for rows, length in ((4, 1), (1, 7), (3, 8), (2, 33), (1, core.CONTEXT)):
            torch.testing.assert_close(model(tokens[:rows, :length]), whole[:rows, :length], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("pattern", ["L", "S", "SL", "SSL", "SSSL", "SSSSL"])
def test_no_prediction_depends_on_a_later_token(load, pattern):
    core = load(WINDOW_PATTERN=pattern, DEPTH=3)
    model = disturbed(core)
    tokens = torch.randint(0, 256, (1, core.CONTEXT))
    with torch.inference_mode():
        before = model(tokens)
        for position in (1, 8, 31, core.CONTEXT - 1):
            changed = tokens.clone()
            changed[0, position] = (changed[0, position] + 1) % 256
            after = model(changed)
            assert torch.equal(before[:, :position], after[:, :position])
            assert not torch.equal(before[:, position], after[:, position])


def test_windows_follow_the_pattern_and_the_last_layer_sees_all(load):
    core = load(DEPTH=7, WINDOW_PATTERN="SSSSL")
    assert [core.window_of(layer) for layer in range(7)] == [8, 8, 8, 8, 64, 8, 64]
    assert [block.attention.window for block in core.build_model(torch.device("meta")).blocks][-1] == 64


def dense_attention(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Attention in float64, one query at a time, with no mask."""
    query, key, value = query.double(), key.double(), value.double()
    rows = []
    for t in range(query.size(2)):
        seen = slice(max(0, t - window + 1), t + 1)
        scores = (query[:, :, t, None] * key[:, :, seen]).sum(-1) / math.sqrt(query.size(-1))
        rows.append((scores.softmax(-1).unsqueeze(-1) * value[:, :, seen]).sum(2))
    return torch.stack(rows, dim=2)


@pytest.mark.parametrize(("length", "window"), [(64, 64), (64, 8), (64, 1), (33, 8), (5, 8), (1, 8), (64, 63)])
def test_attention_sees_exactly_its_window(load, length, window):
    core = load()
    query, key, value = torch.randn(3, 2, 3, length, 16)
    out = core.attend(query, key, value, window)
    torch.testing.assert_close(out.double(), dense_attention(query, key, value, window), atol=1e-5, rtol=1e-4)


def test_a_mask_first_used_in_scoring_serves_training(load):
    core = load()
    query = torch.randn(1, 1, 40, 8, requires_grad=True)
    with torch.inference_mode():
        core.attend(*torch.randn(3, 1, 1, 40, 8), 4)
    core.attend(query, query, query, 4).sum().backward()
    assert query.grad is not None and query.grad.isfinite().all()


def test_rotary_matches_complex_rotation_in_float64(load):
    core = load()
    x = torch.randn(2, core.CONTEXT, 3, core.HEAD_DIM)
    left, right = x.double().chunk(2, dim=-1)
    frequency = core.ROPE_BASE ** (-torch.arange(core.HEAD_DIM // 2, dtype=torch.float64) / (core.HEAD_DIM // 2))
    angle = torch.arange(core.CONTEXT, dtype=torch.float64)[:, None, None] * frequency
    turned = torch.complex(left, right) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(core.rotate(x, core.rotary_table()).double(), expected, atol=1e-6, rtol=1e-5)


def test_rotary_scores_depend_on_distance_alone(load):
    core = load()
    query, key = torch.randn(2, 1, 1, 1, core.HEAD_DIM).expand(2, 1, core.CONTEXT, 1, core.HEAD_DIM)
    query, key = (core.rotate(x, core.rotary_table())[0, :, 0] for x in (query, key))
    scores = query @ key.T
    for distance in (0, 1, 5, 40):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(scores[10, 10], scores[10, 5])


def test_depth_alone_scales_the_model(load):
    sizes = []
    for depth in range(1, 13):
        core = load(knobs.values(TEXT), DEPTH=depth)
        model = core.build_model(torch.device("meta"))
        assert core.WIDTH % core.HEAD_DIM == 0 and depth * core.ASPECT <= core.WIDTH
        assert core.WIDTH - depth * core.ASPECT < core.HEAD_DIM
        assert len(model.blocks) == depth and model.blocks[-1].attention.window == core.CONTEXT
        assert model.blocks[-1].attention.table is not None
        assert model(torch.zeros(2, 128, dtype=torch.int64, device="meta")).shape == (2, 128, core.VOCAB_SIZE)
        sizes.append(sum(weight.numel() for weight in model.parameters()))
    assert sizes == sorted(set(sizes))
    assert load(knobs.values(TEXT)).WIDTH == 640


def test_operations_per_token(load):
    core = load(DEPTH=2, MLP_RATIO=4)
    c, v = core.WIDTH, 256
    matrices = 2 * (4 * c * c + 2 * 4 * c * c) + 32 * core.HEADS + v * c  # the gate is in the last layer only
    assert core.build_model(CPU).flops_per_token() == 6 * matrices + 12 * c * (8 + 64)


def test_weights_survive_a_round_trip(load, tmp_path):
    core = load(DEPTH=3)
    model = disturbed(core)
    save_model(model, str(tmp_path / "weights.safetensors"))
    torch.manual_seed(1)
    fresh = core.build_model(CPU)
    load_model(fresh, tmp_path / "weights.safetensors", strict=True)
    tokens = torch.randint(0, 256, (2, core.CONTEXT))
    assert torch.equal(model(tokens), fresh(tokens))


# ---------------------------------------------------------------------------------------------------- the optimizer


@pytest.mark.parametrize("shape", [(3, 48, 48), (2, 96, 24), (2, 24, 96), (1, 5, 32)])
def test_orthogonalization_brings_singular_values_near_one(load, shape):
    core = load()
    torch.manual_seed(0)
    matrices = torch.randn(shape) * torch.tensor([1e-4, 1.0, 1e3])[: shape[0], None, None]
    result = core.orthogonalize(matrices).double()
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.8 and values.max() < 1.2
    left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    for one, u, v in zip(result, left, right, strict=True):
        product = u.T @ one @ v.T  # diagonal in the same singular vectors, and of the same signs
        assert (product - product.diagonal().diag()).abs().max() < 1e-3 and product.diagonal().min() > 0.8


@pytest.mark.parametrize(("lr", "decay"), [(0.01, 0.0), (0.3, 0.1)])
def test_adamw_steps_as_torch_does(load, lr, decay):
    core = load()
    torch.manual_seed(0)
    mine = nn.Parameter(torch.randn(7, 5))
    theirs = nn.Parameter(mine.detach().double())
    ours = core.AdamW(mine, lr, decay)
    reference = torch.optim.AdamW(
        [theirs], lr=lr, weight_decay=decay, betas=(core.ADAM_BETA1, core.ADAM_BETA2), eps=core.ADAM_EPSILON
    )
    for step in range(20):
        gradient = torch.randn(7, 5) * 10.0 ** -(step % 4)
        mine.grad, theirs.grad = gradient, gradient.double()
        reference.param_groups[0]["lr"] = lr * (1 - step / 40)
        with torch.no_grad():
            ours.step(lr_share=1 - step / 40, decay_share=0.0)
        reference.step()
    torch.testing.assert_close(mine.double(), theirs, atol=1e-5, rtol=1e-4)


def test_adamw_keeps_bfloat16_weights_within_their_rounding(load):
    core = load()
    weight = nn.Parameter(torch.randn(64, 8).bfloat16())
    exact = nn.Parameter(weight.detach().float())
    ours, reference = core.AdamW(weight, 0.1), core.AdamW(exact, 0.1)
    for _ in range(5):
        gradient = torch.randn(64, 8).bfloat16()
        weight.grad, exact.grad = gradient, gradient.float()
        with torch.no_grad():
            ours.step(1.0, 1.0), reference.step(1.0, 1.0)
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(weight.float(), exact, atol=0.05, rtol=0.02)


class PlainMuon:
    """Muon as it is written down, in float64, for one matrix, with loops instead of batches."""

    def __init__(self, core: ModuleType, weight: Tensor, lr: float, decay: float) -> None:
        self.core, self.weight, self.decay = core, weight.double(), decay
        rows, columns = weight.shape
        self.lr = lr * max(1, rows / columns) ** 0.5
        self.momentum = torch.zeros_like(self.weight)
        self.variance = torch.zeros(max(rows, columns) if rows != columns else rows, dtype=torch.float64)
        self.steps = 0

    def step(self, gradient: Tensor, lr_share: float, decay_share: float) -> None:
        core, gradient = self.core, gradient.double()
        beta = 0.85 + (core.MUON_MOMENTUM - 0.85) * min(1, self.steps / core.MOMENTUM_WARMUP)
        self.momentum = beta * self.momentum + (1 - beta) * gradient
        ahead = beta * self.momentum + (1 - beta) * gradient
        left, values, right = torch.linalg.svd(ahead / (1.02 * ahead.norm() + 1e-6), full_matrices=False)
        for a, b, c in core.POLAR_EXPRESS:  # a polynomial of the matrix is one of its singular values
            values = a * values + b * values**3 + c * values**5
        update = left @ values.diag() @ right
        axis = 1 if update.size(0) >= update.size(1) else 0
        power = update.square().mean(axis)
        self.variance = core.MUON_BETA2 * self.variance + (1 - core.MUON_BETA2) * power
        equal = update / self.variance.sqrt().unsqueeze(axis)
        equal = equal * update.norm() / equal.norm()
        for i in range(update.size(0)):
            for j in range(update.size(1)):
                w, u = self.weight[i, j].item(), equal[i, j].item()
                shrink = self.decay * decay_share * w if u * w >= 0 else 0.0
                self.weight[i, j] = w - self.lr * lr_share * (u + shrink)
        self.steps += 1


@pytest.mark.parametrize("shape", [(16, 16), (24, 8), (8, 24)])
def test_muon_steps_as_the_plain_algorithm_does(load, shape):
    core = load(MOMENTUM_WARMUP=50)
    torch.manual_seed(0)
    weights = [nn.Parameter(0.1 * torch.randn(shape)) for _ in range(2)]
    plain = [PlainMuon(core, weight.detach(), 0.02, 0.3) for weight in weights]
    muon = core.Muon(list(weights), 0.02, 0.3)
    for step in range(12):
        for weight, reference in zip(weights, plain, strict=True):
            weight.grad = torch.randn(shape) * (torch.arange(shape[0])[:, None] + 1)  # rows of unlike size
            reference.step(weight.grad, 1 - step / 20, 1 - step / 30)
        with torch.no_grad():
            muon.step(1 - step / 20, 1 - step / 30)
    for weight, reference in zip(weights, plain, strict=True):
        torch.testing.assert_close(weight.double(), reference.weight, atol=2e-4, rtol=1e-3)


def test_every_parameter_has_an_optimizer(load):
    core = load()
    model = core.build_model(CPU)
    owned = [id(weight) for group in core.Optimizer(model).groups for weight in group.weights]
    assert sorted(owned) == sorted(id(weight) for weight in model.parameters())
    model.extra = nn.Parameter(torch.zeros(3))
    with pytest.raises(AssertionError, match="extra"):
        core.Optimizer(model)


def test_matrices_of_one_shape_share_a_group(load):
    core = load(DEPTH=4)
    groups = [group for group in core.Optimizer(core.build_model(CPU)).groups if isinstance(group, core.Muon)]
    assert len(groups) == 4  # attention, up, down, gate
    assert sum(len(group.weights) for group in groups) == 4 * 6 + 2


def test_schedule(load):
    core = load(WARMDOWN=0.75, FINAL_LR=0.05)
    assert [core.lr_share(progress) for progress in (0.0, 0.1, 0.25)] == [1.0, 1.0, 1.0]
    assert core.lr_share(0.625) == pytest.approx(0.525)
    assert core.lr_share(1.0) == core.lr_share(1.2) == pytest.approx(0.05)
    assert [core.decay_share(progress) for progress in (0.0, 0.5, 1.0, 1.2)] == [1.0, 0.5, 0.0, 0.0]


# ---------------------------------------------------------------------------------------------------- training


def test_it_learns_real_text(load):
    run = FakeRun(80)
    load().main(run)
    losses = torch.stack(run.losses)
    assert len(losses) == 80
    assert losses[0].item() == pytest.approx(math.log(256), abs=5e-3)
    assert losses[-5:].mean() < 2.6  # nats; the distribution of single bytes gives about 3.3


def test_it_memorizes_one_batch(load):
    run = FakeRun(80, repeat=True)
    load().main(run)
    assert run.losses[-1] < 0.2


def test_it_starts_once_then_trains_then_saves_once(load):
    run = FakeRun(3)
    load().main(run)
    assert run.events == ["start", "save"] and run.saved is not None


def test_warm_up_leaves_no_trace(load, monkeypatch):
    core = load()
    optimizers = []
    monkeypatch.setattr(
        core, "Optimizer", lambda model, make=core.Optimizer: optimizers.append(make(model)) or optimizers[-1]
    )
    run = FakeRun(0)
    core.main(run)
    torch.manual_seed(run.seed)
    fresh = core.build_model(CPU)
    assert all(torch.equal(run.started[name], tensor) for name, tensor in fresh.state_dict().items())
    blank = core.Optimizer(fresh)
    pairs = list(zip(optimizers[0].state(), blank.state(), strict=True))
    assert len(pairs) > 10 and all(torch.equal(warmed, new) for warmed, new in pairs)
    assert all(weight.grad is None for weight in run.saved.parameters())


def test_training_is_the_same_with_and_without_warm_up(load):
    core, runs = load(), (FakeRun(5), FakeRun(5, warmup=False))
    for run in runs:
        core.main(run)
    first, second = (run.saved.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_seed_repeats_exactly_and_another_differs(load):
    core, runs = load(), [FakeRun(5, seed=seed) for seed in (1, 1, 2)]
    for run in runs:
        core.main(run)
    one, same, other = (torch.stack(run.losses) for run in runs)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_accumulated_passes_equal_one_large_pass(load):
    """Four passes of two rows are one step of eight; the fifth pass belongs to a step that never comes."""
    core, parts = load(BATCH_ROWS=8), load(BATCH_ROWS=8, MICRO_ROWS=2)
    source = FakeRun(4)
    rows = list(islice(source.batches(8, core.CONTEXT), 3))
    pieces = [piece for tokens, targets in rows for piece in zip(tokens.split(2), targets.split(2), strict=True)]
    curves = []
    for module, batches, extra in ((core, rows, []), (parts, pieces, pieces[:1])):
        torch.manual_seed(0)
        model = module.build_model(CPU)
        curve = list(module.steps(model, module.Optimizer(model), [*batches, *extra], lambda: 0.5))
        curves.append(torch.stack(curve))
    assert len(curves[0]) == len(curves[1]) == 3
    torch.testing.assert_close(curves[0], curves[1], atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------------------------------------------- on a GPU

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SMALL: dict[str, knobs.Value] = {"DEPTH": 3, "HEAD_DIM": 64, "ASPECT": 64, "CONTEXT": 1024, "WINDOW_DIVISOR": 8}


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize(("length", "window"), [(1024, 128), (1024, 256), (1024, 1024), (384, 128), (100, 128)])
def test_cuda_attention_in_every_situation(load, length, window):
    core = load(SMALL)
    query, key, value = torch.randn(3, 2, 3, length, 64, device="cuda", dtype=torch.bfloat16)
    expected = dense_attention(query, key, value, window)
    compiled = torch.compile(core.attend, dynamic=False)
    with torch.inference_mode():
        scored = core.attend(query, key, value, window)
    query.requires_grad_()
    for out in (scored, core.attend(query, key, value, window), compiled(query, key, value, window)):
        torch.testing.assert_close(out.double(), expected, atol=0.02, rtol=0.02)
    assert not any(isinstance(mask, Tensor) for mask in core._masks.values())


@pytest.mark.gpu
@gpu
def test_cuda_agrees_with_float32_on_the_cpu(load):
    core = load(SMALL)
    reference = disturbed(core)
    model = core.build_model(torch.device("cuda"))
    model.load_state_dict(reference.state_dict())
    assert model.embedding.weight.dtype == torch.bfloat16 and model.unembedding.weight.dtype == torch.float32
    tokens, targets = torch.randint(0, 256, (2, 4, core.CONTEXT))
    expected = core.next_token_loss(reference, tokens, targets)
    expected.backward()
    loss = core.fused(core.next_token_loss, torch.device("cuda"))(model, tokens.cuda(), targets.cuda())
    loss.backward()
    with torch.inference_mode():
        scored = core.next_token_loss(model, tokens.cuda(), targets.cuda())
    assert loss.item() == pytest.approx(expected.item(), abs=0.02)
    assert scored.item() == pytest.approx(loss.item(), abs=0.005)
    for (name, mine), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        similarity = F.cosine_similarity(mine.grad.cpu().float().flatten(), theirs.grad.flatten(), dim=0)
        assert similarity > 0.97, name


@pytest.mark.gpu
@gpu
def test_cuda_trains_compiled_and_compiles_once(load):
    core = load(SMALL, BATCH_ROWS=16, MICRO_ROWS=8)
    run = FakeRun(120)
    run.device = torch.device("cuda")
    frames: list[int] = []
    start = run.start

    def started(model: nn.Module) -> None:
        start(model)
        frames.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    run.start = started  # type: ignore[method-assign]
    core.main(run)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == frames[0]
    losses = torch.stack(run.losses).cpu()
    assert len(losses) == 60 and losses[0].item() == pytest.approx(math.log(256), abs=5e-3)
    assert losses[-5:].mean() < 2.6
