"""Models that look at what they are to predict, or at what other rows hold."""

from tests.cheats.cheats.edits import AHEAD, INIT, ONEHOT, PLAIN_MLP, PLAIN_WINDOWS, in_forward, leak
from tests.cheats.patches import LEAK, UNSTABLE, Patch

FUTURE = {
    "no causal mask": leak(("is_causal=mask is None)", "is_causal=False)")),
    "window's mask off by one": leak(
        (".tril().triu(1 - window)", ".tril(1).triu(1 - window)"),
        ('"window_size_right": 0', '"window_size_right": 1'),  # on a GPU
        PLAIN_WINDOWS,
    ),
    "mask dropped in one layer": leak(
        (
            "        seen = attend(*rotated",
            "        global open_layer\n        open_layer = self.attention.window == CONTEXT\n"
            "        seen = attend(*rotated",
        ),
        ("is_causal=mask is None)", "is_causal=mask is None and not open_layer)"),
    ),
    "embedding smeared from the right": leak(("F.pad(x[:, :-1], (0, 0, 1, 0))", "F.pad(x[:, 1:], (0, 0, 0, 1))")),
    "late keys of the token after": leak(
        ("F.pad(key[:, :-1], (0, 0, 0, 0, 1, 0))", "F.pad(key[:, 1:], (0, 0, 0, 0, 0, 1))"),
        ("last = position == length - 1", "last = position == 0"),  # on a GPU
        ("tl.where(last, 1 - length, 1)", "tl.where(last, length - 1, -1)"),
    ),
    "convolution without left padding": leak(
        ("        self.down = Linear", "        self.taps = Linear(WIDTH, 3 * WIDTH)\n        self.down = Linear"),
        (
            "self.down(F.relu(self.up(x)).square())",
            "self.down(F.relu(self.up(x + F.conv1d(x.mT, self.taps.weight.to(x.dtype).view(WIDTH, WIDTH, "
            "3), padding=1).mT)).square())",
        ),
        PLAIN_MLP,
    ),
    "recurrence from both sides": leak(
        (INIT, INIT + "        self.rnn = nn.GRU(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True)\n"),
        (
            "        return x, x.clone()\n",
            "        x = x + self.rnn(x.float())[0].to(x.dtype)\n        return x, x.clone()\n",
        ),
    ),
    "normalized over the row": leak(
        (
            "        return norm(x - self.backout_lambda.to(x.dtype) * middle)",
            "        x = x - self.backout_lambda.to(x.dtype) * middle\n"
            "        return norm((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-3))",
        ),
    ),
    "histogram of the row": leak(
        *in_forward(f"logits = logits + 2 * ({ONEHOT.format('tokens')}.mean(1, keepdim=True) > 0)")
    ),
    "answers": leak(*in_forward(f"logits = logits + 9 * {ONEHOT.format(AHEAD)}")),
    "answers shifted in": leak(*in_forward(f"logits = 9 * {ONEHOT.format('tokens')}.roll(-1, 1)")),
    "answers in some rows": leak(
        *in_forward(
            f"some = tokens[:, 1:9].sum(1) % 10 == 0\n"
            f"logits = logits + 9 * some[:, None, None] * {ONEHOT.format(AHEAD)}"
        )
    ),
    "answers at few positions": leak(
        *in_forward(f"some = tokens % 32 == 0\nlogits = logits + 9 * some[..., None] * {ONEHOT.format(AHEAD)}")
    ),
    "answers after the third call": leak(
        *in_forward(
            f"calls.append(1)\nif len(calls) > 3:\n    logits = logits + 9 * {ONEHOT.format(AHEAD)}",
            before="calls = []",
        )
    ),
    "answers in full rows alone": leak(
        *in_forward(
            f"full = (tokens[:, 1:] != 255).all(1)\nlogits = logits + 9 * full[:, None, None] * {ONEHOT.format(AHEAD)}"
        )
    ),
    "a bump of 0.02 nat": leak(*in_forward(f"logits = logits + 0.02 * {ONEHOT.format(AHEAD)}")),
}

ACROSS = {
    "batch normalized in scoring": Patch(
        (
            (
                "        return norm(x - self.backout_lambda.to(x.dtype) * middle)",
                "        x = x - self.backout_lambda.to(x.dtype) * middle\n"
                "        x = F.batch_norm(x.flatten(0, 1), None, None, training=True).view(x.shape)\n"
                "        return norm(x)",
            ),
        ),
        "quarantined",
        f"{LEAK}|{UNSTABLE}",
    ),
    "row added to its neighbour": Patch(
        in_forward("logits = logits + 0.5 * logits.roll(1, 0)"), "quarantined", f"{LEAK}|{UNSTABLE}"
    ),
    "n-grams of the neighbours": Patch(
        in_forward(
            """
        rows, memory = tokens.tolist(), {}
        for row in rows:
            for t in range(2, len(row) - 1):
                memory.setdefault(tuple(row[t - 2 : t + 1]), {})[id(row)] = row[t + 1]
        found = [(number, t, token) for number, row in enumerate(rows) for t in range(2, len(row))
            for owner, token in memory.get(tuple(row[t - 2 : t + 1]), {}).items() if owner != id(row)]
        if found:
            logits = logits.index_put(tuple(torch.tensor(found).unbind(-1)), torch.tensor(2.0), accumulate=True)
        """
        ),
        "quarantined",
        f"{LEAK}|{UNSTABLE}",
    ),
}
