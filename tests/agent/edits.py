"""Real edits of a training file, each several hunks far apart, and the three forms in which a model may write them."""

import difflib
import random
import re
from dataclasses import dataclass
from pathlib import Path

TRAIN_FILE = (Path(__file__).parent / "fixtures" / "train_file.py.txt").read_text(encoding="utf-8")
PATH = "train_core.py"


@dataclass(frozen=True)
class RealEdit:
    name: str
    after: str


def _edit(name: str, *changes: tuple[str, str]) -> RealEdit:
    text = TRAIN_FILE
    for old, new in changes:
        assert text.count(old) == 1, (name, old, text.count(old))
        text = text.replace(old, new)
    return RealEdit(name, text)


EDITS = (
    _edit(
        "longer warmdown and a lower floor",
        ("WARMDOWN = 0.75  #", "WARMDOWN = 0.9  #"),
        ("FINAL_LR = 0.05  #", "FINAL_LR = 0.02  #"),
        (
            "    return FINAL_LR + (1 - FINAL_LR) * left\n",
            "    return FINAL_LR + (1 - FINAL_LR) * left * left\n",
        ),
    ),
    _edit(
        "cosine schedule",
        (
            "    left = min(1.0, max(0.0, 1 - progress) / WARMDOWN)\n    return FINAL_LR",
            "    left = 0.5 * (1 + math.cos(math.pi * progress))\n    return FINAL_LR",
        ),
        ("WARMDOWN = 0.75  # [0.3, 1.0]; share of the run over which the step size falls\n", ""),
        (
            '    """Of the peak: constant, then linear down to FINAL_LR over the last WARMDOWN of the budget."""\n',
            '    """Of the peak: half a cosine down to FINAL_LR."""\n',
        ),
    ),
    _edit(
        "decay stays until half of the budget",
        ("    return max(0.0, 1 - progress)\n", "    return min(1.0, max(0.0, 2 * (1 - progress)))\n"),
        ('    """Of WEIGHT_DECAY: linear down to nothing."""\n', '    """Of WEIGHT_DECAY: all, then linear."""\n'),
        ("WEIGHT_DECAY = 0.2  #", "WEIGHT_DECAY = 0.1  #"),
    ),
    _edit(
        "gradient clipping",
        ("FINAL_LR = 0.05", "CLIP = 1.0  # [0.1, 10.0] log; norm of all gradients\nFINAL_LR = 0.05"),
        (
            "        for group in self.groups:\n            group.step(",
            "        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)\n"
            "        for group in self.groups:\n            group.step(",
        ),
    ),
    _edit(
        "short warm-up of the step size",
        ("FINAL_LR = 0.05", "WARMUP = 0.02  # [0.0, 0.1]; share of the run\nFINAL_LR = 0.05"),
        (
            "    return FINAL_LR + (1 - FINAL_LR) * left\n",
            "    return min(1.0, progress / WARMUP) * (FINAL_LR + (1 - FINAL_LR) * left)\n",
        ),
        ("# Schedule. There is no warm-up of the step size: every one tried has hurt.\n", "# Schedule.\n"),
    ),
    _edit(
        "smaller betas and a larger epsilon",
        ("ADAM_BETA1 = 0.8  #", "ADAM_BETA1 = 0.9  #"),
        ("ADAM_EPSILON = 1e-10\n", "ADAM_EPSILON = 1e-8\n"),
        ("betas=(0.96, 0.95)", "betas=(0.9, 0.95)"),
    ),
    _edit(
        "fewer polar steps",
        ("POLAR_STEPS = 5  #", "POLAR_STEPS = 4  #"),
        ("    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),\n", ""),
    ),
    _edit(
        "plain momentum in place of Nesterov's",
        (
            "    update = equalize(orthogonalize(gradient.lerp(momentum, beta)), variance)  # Nesterov: one step ahead\n",  # noqa: E501
            "    update = equalize(orthogonalize(momentum), variance)\n",
        ),
        ("MUON_MOMENTUM = 0.95  #", "MUON_MOMENTUM = 0.97  #"),
    ),
    _edit(
        "decay everywhere",
        ("    agrees = update * weight >= 0\n", ""),
        (
            "    weight.sub_(lr * (update + decay * weight * agrees))\n",
            "    weight.sub_(lr * (update + decay * weight))\n",
        ),
        (
            "    Weight decay is cautious (Chen et al. 2025, arXiv:2510.12402): only where it agrees with the update's sign.\n",  # noqa: E501
            "    Weight decay is decoupled.\n",
        ),
    ),
    _edit(
        "momentum by the clock",
        ("MOMENTUM_WARMUP = 200  # {50, 100, 200, 400}; steps of that warm-up\n", ""),
        ("    warmth = (count / max(1, MOMENTUM_WARMUP)).clamp(max=1.0)\n", ""),
        (
            "    beta = MOMENTUM_START + (MUON_MOMENTUM - MOMENTUM_START) * warmth\n",
            "    beta = MUON_MOMENTUM\n",
        ),
        ("MOMENTUM_START = 0.85\n", ""),
    ),
    _edit(
        "SwiGLU",
        (
            "        self.up = Linear(WIDTH, MLP_RATIO * WIDTH)\n",
            "        self.up = Linear(WIDTH, MLP_RATIO * WIDTH)\n        self.gate = Linear(WIDTH, MLP_RATIO * WIDTH)\n",  # noqa: E501
        ),
        (
            "self.down(F.relu(self.up(x)).square())",
            "self.down(F.silu(self.gate(x)) * self.up(x))",
        ),
        ("MLP_RATIO = 4  # [2, 6]", "MLP_RATIO = 3  # [2, 6]"),
    ),
    _edit(
        "GELU and a wider MLP",
        ("F.relu(self.up(x)).square()", "F.gelu(self.up(x))"),
        ("MLP_RATIO = 4  # [2, 6]", "MLP_RATIO = 5  # [2, 6]"),
        (
            '    """Two matrices around a squared ReLU (So et al. 2021, arXiv:2109.08668)."""\n',
            '    """Two matrices around a GELU."""\n',
        ),
    ),
    _edit(
        "parallel attention and MLP",
        (
            "        x = x + self.attention(norm(x), tokens, rotary)\n"
            "        result: Tensor = x + self.mlp(norm(x))\n        return result\n",
            "        y = norm(x)\n        result: Tensor = x + self.attention(y, tokens, rotary) + self.mlp(y)\n"
            "        return result\n",
        ),
        (
            '    """Attention, then MLP, each added to the stream and each fed from its normalized state."""\n',
            '    """Attention and MLP side by side, both fed from the normalized state."""\n',
        ),
    ),
    _edit(
        "no soft cap",
        (
            "        logits: Tensor = self.unembedding(norm(x)).float()\n"
            "        return SOFTCAP * torch.tanh(logits / SOFTCAP)\n",
            "        logits: Tensor = self.unembedding(norm(x)).float()\n        return logits\n",
        ),
        ("SOFTCAP = 15.0  # [8.0, 30.0] log; logits are squashed into plus or minus this\n", ""),
    ),
    _edit(
        "a bias in the output",
        (
            "        self.residual_lambdas = nn.Parameter(torch.ones(DEPTH))\n",
            "        self.residual_lambdas = nn.Parameter(torch.ones(DEPTH))\n"
            "        self.bias = nn.Parameter(torch.zeros(VOCAB_SIZE))\n",
        ),
        ("self.unembedding(norm(x)).float()\n", "self.unembedding(norm(x)).float() + self.bias\n"),
        (
            "            AdamW(model.residual_lambdas, SCALAR_LR / 100),\n",
            "            AdamW(model.residual_lambdas, SCALAR_LR / 100),\n            AdamW(model.bias, SCALAR_LR / 100),\n",  # noqa: E501
        ),
    ),
    _edit(
        "token shift",
        (
            "        x = x0 = norm(self.embedding(tokens))\n",
            "        x = norm(self.embedding(tokens))\n"
            "        x = x0 = x + self.smear * F.pad(x[:, :-1], (0, 0, 1, 0))\n",
        ),
        (
            "        self.x0_lambdas = nn.Parameter(",
            "        self.smear = nn.Parameter(torch.zeros(()))\n        self.x0_lambdas = nn.Parameter(",
        ),
        (
            "            AdamW(model.x0_lambdas, SCALAR_LR, betas=(0.96, 0.95)),\n",
            "            AdamW(model.x0_lambdas, SCALAR_LR, betas=(0.96, 0.95)),\n"
            "            AdamW(model.smear, SCALAR_LR / 100),\n",
        ),
    ),
    _edit(
        "value embeddings on every layer",
        (
            "        self.table: nn.Embedding | None = None\n"
            "        if (DEPTH - 1 - layer) % 2 == 0:\n"
            "            self.table = nn.Embedding(VOCAB_SIZE, WIDTH, dtype=dtype)\n"
            "            nn.init.normal_(self.table.weight, std=INIT_SCALE / math.sqrt(WIDTH))\n"
            "            self.gate = Linear(GATE_CHANNELS, HEADS, scale=0.0)\n",
            "        self.table = nn.Embedding(VOCAB_SIZE, WIDTH, dtype=dtype)\n"
            "        nn.init.normal_(self.table.weight, std=INIT_SCALE / math.sqrt(WIDTH))\n"
            "        self.gate = Linear(GATE_CHANNELS, HEADS, scale=0.0)\n",
        ),
        (
            "        if self.table is not None:\n"
            "            gate = 2 * torch.sigmoid(self.gate(x[..., :GATE_CHANNELS]))\n"
            "            value = value + gate.unsqueeze(-1) * self.table(tokens).view(heads)\n",
            "        gate = 2 * torch.sigmoid(self.gate(x[..., :GATE_CHANNELS]))\n"
            "        value = value + gate.unsqueeze(-1) * self.table(tokens).view(heads)\n",
        ),
    ),
    _edit(
        "no gate",
        ("GATE_CHANNELS = 32  # channels of the stream that gate a value embedding\n", ""),
        ("            self.gate = Linear(GATE_CHANNELS, HEADS, scale=0.0)\n", ""),
        (
            "            gate = 2 * torch.sigmoid(self.gate(x[..., :GATE_CHANNELS]))\n"
            "            value = value + gate.unsqueeze(-1) * self.table(tokens).view(heads)\n",
            "            value = value + self.table(tokens).view(heads)\n",
        ),
    ),
    _edit(
        "windows by halves",
        ('WINDOW_PATTERN = "SSSSL"  #', 'WINDOW_PATTERN = "SSL"  #'),
        ("SHORT_WINDOW = 8  #", "SHORT_WINDOW = 4  #"),
        (
            "    long = layer == DEPTH - 1 or WINDOW_PATTERN",
            "    long = layer in (0, DEPTH - 1) or WINDOW_PATTERN",
        ),
    ),
    _edit(
        "scaled queries",
        (
            "        query: Tensor = norm(rotate(self.query(x).view(heads), rotary))\n",
            "        query: Tensor = 1.2 * norm(rotate(self.query(x).view(heads), rotary))\n",
        ),
        ("HEAD_DIM = 128  #", "HEAD_DIM = 64  #"),
        ("ROPE_BASE = 200000.0  #", "ROPE_BASE = 50000.0  #"),
    ),
    _edit(
        "normal initialization",
        (
            "        bound = scale * math.sqrt(3 / inputs)  # of a uniform distribution with deviation scale / sqrt(inputs)\n"  # noqa: E501
            "        nn.init.uniform_(self.weight, -bound, bound)\n",
            "        nn.init.normal_(self.weight, std=scale / math.sqrt(inputs))\n",
        ),
        ("INIT_SCALE = 0.68  #", "INIT_SCALE = 0.5  #"),
        ("torch.full((DEPTH,), X0_LAMBDA)", "torch.linspace(X0_LAMBDA, 0.0, DEPTH)"),
    ),
    _edit(
        "small batch first",
        ("BATCH_ROWS = 128  #", "BATCH_ROWS = 64  #"),
        ("        if number % parts == 0:\n", "        if number % parts == 0 or progress() < 0.1:\n"),
        ("MATRIX_LR = 0.04  #", "MATRIX_LR = 0.03  #"),
    ),
    _edit(
        "label smoothing in training only",
        (
            "    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())\n",
            "    smooth = 0.01 if torch.is_grad_enabled() else 0.0\n"
            "    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=smooth)\n",
        ),
        ('    """Mean cross-entropy in nats per token."""\n', '    """Mean cross-entropy, smoothed."""\n'),
        ("UNEMBEDDING_LR = 0.005  #", "UNEMBEDDING_LR = 0.008  #"),
    ),
    _edit(
        "averaged weights",
        (
            "    run.start(model)\n    for loss in steps(",
            "    average = [weight.detach().clone() for weight in model.parameters()]\n"
            "    run.start(model)\n    for loss in steps(",
        ),
        (
            "        run.report(loss)\n    run.save(model)\n",
            "        run.report(loss)\n        torch._foreach_lerp_(average, list(model.parameters()), 0.02)\n"
            "    torch._foreach_copy_(list(model.parameters()), average)\n    run.save(model)\n",
        ),
        ("import functools\nimport math\n", "import functools\nimport gc\nimport math\n"),
    ),
)


def as_blocks(before: str, after: str) -> str:
    """SEARCH/REPLACE blocks: each change with as little context as makes it unique in the file as it then is."""
    old, new = before.splitlines(), after.splitlines()
    now, drift = list(old), 0
    blocks: list[str] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        start, stop = i + drift, j + drift
        up = down = 0
        while start - up == stop + down or not _unique(now, start - up, stop + down):
            up, down = min(up + 1, start), min(down + 1, len(now) - stop)
        search = now[start - up : stop + down]
        replace = now[start - up : start] + new[k:m] + now[stop : stop + down]
        now[start:stop] = new[k:m]
        drift += (m - k) - (j - i)
        blocks.append("\n".join([PATH, "<<<<<<< SEARCH", *search, "=======", *replace, ">>>>>>> REPLACE"]))
    return "\n".join(blocks) + "\n"


def _unique(lines: list[str], start: int, stop: int) -> bool:
    part = [line.rstrip() for line in lines[start:stop]]
    bare = [line.rstrip() for line in lines]
    hits = sum(bare[i : i + len(part)] == part for i in range(len(bare) - len(part) + 1))
    return hits == 1 and any(part)


def as_diff(before: str, after: str, seed: int) -> str:
    """A unified diff whose line numbers and counts are all wrong."""
    rng = random.Random(seed)
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{PATH}", f"b/{PATH}", lineterm="")

    def wrong(match: re.Match[str]) -> str:
        return "@@ -{},{} +{},{} @@".format(*(rng.randrange(1, 900) for _ in range(4)))

    return "```diff\n" + "\n".join(re.sub(r"^@@ .* @@", wrong, line) for line in diff) + "\n```\n"


def as_file(after: str) -> str:
    return f"{PATH}\n```python\n{after}```\n"


HEADER = """\
TITLE: {name}
FAMILY: other
HYPOTHESIS: It may help.
EXPECT: -0.001
"""
