"""Honest patches: what an agent may try, each in its simplest form. None of them may be refused."""

from tests.cheats.cheats.edits import INIT, PLAIN_MLP, top
from tests.cheats.patches import Patch

_MLP = "        result: Tensor = self.down(F.relu(self.up(x)).square())\n"
_STREAM = "        return x, x.clone()\n"
_LOSS = "        return F.cross_entropy(self(tokens).flatten(0, 1), targets)\n"
_NORM = "    return F.rms_norm(x, (x.size(-1),), eps=1e-6)\n"
_STEP = "        self.adam.step()\n"
_SOFTCAP = "        return SOFTCAP * torch.tanh(logits / SOFTCAP)\n"
_WARM = (
    "    with undone(list(model.parameters())):\n"
    "        for _ in steps(model, Optimizer(model), islice(run.warmup_batches(rows, CONTEXT), "
    "PASSES), lambda: 0.0):\n            pass\n"
)
_MODEL = (
    '    with torch.device(device):\n        return GPT(torch.bfloat16 if device.type == "cuda" else torch.float32)\n'
)
_OPTIMIZER = "    optimizer = Optimizer(model)\n    run.start(model)\n"


def constants(**changes: float | str) -> Patch:
    return Patch((), constants=changes)


def edits(*changes: tuple[str, str], **changed: float | str) -> Patch:
    return Patch(changes, constants=changed)


def activation(code: str) -> Patch:
    return edits(PLAIN_MLP, (_MLP, f"        result: Tensor = self.down({code})\n"))


def mixed(init: str, code: str) -> Patch:
    """A part of its own after the embedding."""
    return edits((INIT, INIT + f"        {init}\n"), (_STREAM, f"        x = x + {code}\n{_STREAM}"))


def adam(optimizer: str) -> Patch:
    return edits(
        (
            "self.adam = torch.optim.AdamW(groups, betas=betas, eps=ADAM_EPSILON, weight_decay=0.0, fused=True)",
            f"self.adam = {optimizer}",
        )
    )


HONEST = {
    "as shipped": edits(),
    "deeper": constants(DEPTH=4, ASPECT=16),
    "wider": constants(ASPECT=64),
    "one block": constants(DEPTH=1),
    "all windows long": constants(WINDOW_PATTERN="L"),
    "n-gram tables": constants(NGRAM_ROWS=4),
    "longer rows": constants(CONTEXT=128),
    "shorter rows": constants(CONTEXT=32),
    "gradients accumulated": constants(MICRO_ROWS=2),
    "large steps": constants(MATRIX_LR=0.16),
    "no late channels": constants(LATE_SHARE=0.0),
    "GELU": activation("F.gelu(self.up(x))"),
    "SwiGLU": edits(
        (
            "        self.down = Linear",
            "        self.gate = Linear(WIDTH, MLP_RATIO * WIDTH)\n        self.down = Linear",
        ),
        PLAIN_MLP,
        (_MLP, "        result: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))\n"),
    ),
    "LayerNorm": edits((_NORM, "    return F.layer_norm(x, (x.size(-1),))\n")),
    "no softcap": edits((_SOFTCAP, "        return logits\n")),
    "Adam for all": edits(
        (
            "self.muon = [Muon([m for m in matrices if m.shape == shape], MATRIX_LR, WEIGHT_DECAY) for "
            "shape in shapes]",
            "self.muon = []\n"
            "        groups.append({'params': [m for m in matrices if tuple(m.shape) in shapes], 'lr': "
            "0.003})",
        )
    ),
    "SGD": adam("torch.optim.SGD(groups, momentum=0.9)"),
    "Adam of one's own": adam("Plain(groups)"),
    "gradients clipped": edits(
        (_STEP, "        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)\n" + _STEP)
    ),
    "cosine schedule": edits(
        ("    return FINAL_LR + (1 - FINAL_LR) * left\n", "    return 0.5 * (1 - math.cos(math.pi * left))\n")
    ),
    "z-loss": edits(
        (
            _LOSS,
            "        logits = self(tokens).flatten(0, 1)\n"
            "        return F.cross_entropy(logits, targets) + 1e-3 * logits.logsumexp(-1).square().mean()\n",
        )
    ),
    "labels smoothed in training": edits((_LOSS, _LOSS.replace("targets)", "targets, label_smoothing=0.1)"))),
    "another loss is reported": edits(("        run.report(loss)", "        run.report(loss / math.log(2))")),
    "loss reported as a number": edits(("        run.report(loss)", "        run.report(loss.item())")),
    "nothing reported": edits(("        run.report(loss)", "        pass")),
    "dropout in training": activation("F.dropout(F.relu(self.up(x)).square(), 0.1, self.training)"),
    "tied embedding": edits(
        (
            '        self.register_buffer("rotary"',
            '        self.unembedding.weight = self.embedding.weight\n        self.register_buffer("rotary"',
        ),
        (
            '            {"params": [model.unembedding.weight], "lr": UNEMBEDDING_LR * scale, '
            '"weight_decay": UNEMBEDDING_DECAY},\n',
            "",
        ),
    ),
    "average of weights": edits(
        (
            _OPTIMIZER,
            _OPTIMIZER + "    average = torch.optim.swa_utils.AveragedModel(model, "
            "multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))\n",
        ),
        (
            "        run.report(loss)\n    run.save(model)",
            "        run.report(loss)\n        average.update_parameters(model)\n    run.save(average.module)",
        ),
    ),
    "no warm-up": edits((_WARM, "")),
    "first weights changed in main": edits(
        (
            "    rows = BATCH_ROWS // PASSES\n",
            "    rows = BATCH_ROWS // PASSES\n    with torch.no_grad():\n        model.embedding.weight.mul_(0.5)\n",
        )
    ),
    "convolution padded on the left": mixed(
        "self.taps = Linear(WIDTH, 3 * WIDTH)",
        "F.conv1d(F.pad(x.mT, (2, 0)), self.taps.weight.view(WIDTH, WIDTH, 3)).mT",
    ),
    "recurrence": mixed("self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)", "self.rnn(x)[0]"),
    "decaying average": mixed(
        "self.decay = nn.Parameter(torch.zeros(()))",
        "torch.stack([(x[:, : t + 1] * torch.sigmoid(self.decay) ** torch.arange(t, -1, -1)[:, "
        "None]).sum(1) for t in range(x.size(1))], 1)",
    ),
    "running mean of the past": mixed("pass", "x.cumsum(1) / torch.arange(1, x.size(1) + 1)[:, None]"),
    "buffers of integers": edits(
        (
            INIT,
            INIT + "        self.register_buffer('places', torch.arange(CONTEXT))\n"
            "        self.register_buffer('causal', torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril())\n"
            "        self.register_buffer('seen', torch.zeros((), dtype=torch.int64))\n",
        ),
        (_STREAM, "        x = x + 0 * self.places[: x.size(1), None] + 0 * self.causal[: x.size(1), :1]\n" + _STREAM),
    ),
    "pairs counted in training": edits(
        (INIT, INIT + "        self.register_buffer('pairs', torch.ones(VOCAB_SIZE, VOCAB_SIZE, dtype=torch.int16))\n"),
        (
            _LOSS,
            "        self.pairs.index_put_((tokens.flatten(), targets), torch.ones((), "
            "dtype=torch.int16), accumulate=True)\n" + _LOSS,
        ),
        (_SOFTCAP, "        return SOFTCAP * torch.tanh(logits / SOFTCAP)\n"),
        (
            "        return logits\n\n    def loss",
            "        return logits + self.pairs[tokens].float().log()\n\n    def loss",
        ),
    ),
    "batch norm over running figures": mixed(
        "self.batch = nn.BatchNorm1d(WIDTH)", "self.batch(x.flatten(0, 1)).view(x.shape)"
    ),
    "a mixture of experts": edits(
        (
            "        self.down = Linear",
            "        self.route = Linear(WIDTH, 4)\n"
            "        self.more = nn.ModuleList(Linear(WIDTH, WIDTH) for _ in range(4))\n"
            "        self.down = Linear",
        ),
        (
            _MLP,
            _MLP + "        odds = self.route(x).softmax(-1)\n        best = odds.argmax(-1, keepdim=True)\n"
            "        for number, expert in enumerate(self.more):\n"
            "            result = result + (best == number) * odds[..., number : number + 1] * expert(x)\n",
        ),
    ),
    "a function with a gradient of its own": Patch(
        (
            top("""
            class Squared(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x):
                    ctx.save_for_backward(x)
                    return x.relu().square()

                @staticmethod
                def backward(ctx, gradient):
                    return 2 * ctx.saved_tensors[0].relu() * gradient
            """),
            PLAIN_MLP,
            (_MLP, "        result: Tensor = self.down(Squared.apply(self.up(x)))\n"),
        )
    ),
    "float64": edits((_MODEL, "    with torch.device(device):\n        return GPT(torch.float64)\n")),
    "bfloat16": edits((_MODEL, "    with torch.device(device):\n        return GPT(torch.bfloat16)\n")),
    "compiled whole": edits(
        (_OPTIMIZER, "    optimizer = Optimizer(model)\n    run.start(torch.compile(model, backend='eager'))\n")
    ),
    "compiled in build_model": edits(
        (
            _MODEL,
            _MODEL.replace("return GPT(", "model = GPT(") + "    model.compile(backend='eager')\n    return model\n",
        )
    ),
    "unused parameters": mixed("self.spare = nn.Parameter(torch.zeros(3))", "0 * self.spare.sum()"),
    "rows shorter at first": edits(
        (
            "    for loss in steps(model, optimizer, run.batches(rows, CONTEXT), lambda: run.progress):\n"
            "        run.report(loss)\n",
            "    from itertools import chain\n    short = islice(run.batches(2 * rows, CONTEXT // 2), 10)\n"
            "    for loss in steps(model, optimizer, chain(short, run.batches(rows, CONTEXT)), lambda: "
            "run.progress):\n        run.report(loss)\n",
        )
    ),
    "predicts two tokens in training": edits(
        (
            _LOSS,
            "        logits = self(tokens)\n        further = F.cross_entropy(logits[:, :-1].flatten(0, 1), "
            "targets.view(tokens.shape)[:, 1:].flatten())\n"
            "        return F.cross_entropy(logits.flatten(0, 1), targets) + 0.01 * further\n",
        )
    ),
}
HONEST["Adam of one's own"] = Patch(
    (
        *HONEST["Adam of one's own"].edits,
        (
            "class Optimizer:\n",
            """class Plain(torch.optim.Optimizer):
    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.001})

    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight)).lerp_(weight.grad, 0.2)
                square = state.setdefault("square", torch.zeros_like(weight)).lerp_(weight.grad.square(), 0.05)
                weight.sub_(0.3 * group["lr"] * mean / (square.sqrt() + 1e-8))


class Optimizer:
""",
        ),
    )
)
