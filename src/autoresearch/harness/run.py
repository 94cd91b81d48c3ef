"""The `run` that a `train_core` is handed: seed, device, data, clock, and where to put the weights."""

import hashlib
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from autoresearch.atomic import written
from autoresearch.harness.candidate import Failure, parameter_count, unwrapped
from autoresearch.harness.clock import Clock
from autoresearch.harness.curve import Curve
from autoresearch.harness.data import Batch, TrainingData
from autoresearch.harness.files import Phases
from autoresearch.harness.wake import wake
from autoresearch.harness.weights import check, save
from autoresearch.tasks import TrainResult, TrainTask

_HASHED = 16384  # numbers of each tensor, about, that go into the weights' hash


class Run:
    """One training, as its code sees it.

    seed: int; device: torch.device; progress: 0 to 1 on the clock, as of the batch in hand.
    """

    def __init__(self, task: TrainTask, phases: Phases, shapes: nn.Module) -> None:
        """shapes: the model that is to be scored, on the meta device."""
        self.seed = task.seed
        self.device = torch.device(task.device)
        self.progress = 0.0
        self._awake = wake(self.device, shapes)
        self._task = task
        self._phases = phases
        self._shapes = shapes
        self._clock = Clock(task.budget, task.max_steps, self.device)
        self._curve = Curve(phases.events, self._peak_memory)
        self._data = TrainingData(task.tokens, task.seed, self.device)
        self._batches = self._steps = self._tokens = self._parameters = 0
        self._flops: float | None = None
        self._active: float | None = None
        self._start_hash: str | None = None
        self._saved = False

    def warmup_batches(self, rows: int, context: int) -> Iterator[Batch]:
        """Throw-away batches without end, shaped and placed like real ones: for compiling before the clock starts."""
        for batch in self._data.warmup(rows, context):
            yield batch
            self._awake()  # a graph that is captured now must not meet another thread's work

    def start(self, model: nn.Module) -> None:
        """Record the weights' hash, take in the text and start the clock. Once, before the first real batch."""
        if self._clock.started:
            raise Failure("run.start was called twice")
        self._parameters = parameter_count(model)
        self._start_hash = _weights_hash(unwrapped(model), self.device)
        self._flops = _stated(unwrapped(model), "flops_per_token")
        self._active = _stated(unwrapped(model), "active_parameters", self._parameters)
        self._awake()
        self._phases.enter("train")
        if self._task.data is not None:
            self._data.take_in(_received(self._task.data))
        self._clock.start()

    def batches(self, rows: int, context: int) -> Iterator[Batch]:
        """(inputs, targets), int64[rows, context] each, on the device, until the budget is spent."""
        if not self._clock.started:
            raise Failure("run.batches was called before run.start(model)")
        while not self._clock.spent(self._batches):
            self.progress = self._clock.progress(self._batches)
            batch = self._data.batch(rows, context)
            self._batches += 1
            self._tokens += rows * context
            yield batch
            self._clock.fence()
        self._end()

    def report(self, loss: Tensor | float) -> None:
        """A step is done: its loss, cross-entropy in nats per token, for the live curve. Never waits for the device.

        A step may take several batches; so steps are counted here.
        """
        self._steps += 1
        self._curve.add(
            loss,
            step=self._steps,
            seconds=self._clock.elapsed,
            progress=self.progress,
            tokens=self._tokens,
        )

    def save(self, model: nn.Module) -> None:
        """Hand over the trained weights. Once; ends the clock if it still runs. RuntimeError if they do not fit the
        model that is scored."""
        if not self._clock.started:
            raise Failure("run.save was called before run.start(model): nothing was trained on the clock")
        if self._saved:
            raise Failure("run.save was called twice")
        late, allowed = self._clock.late(), max(1.0, 0.02 * self._task.budget)  # 1 s: a busy machine is slow, too
        if late > allowed:
            raise Failure(f"main worked on for {late:.1f} s between the end of the clock and run.save")
        self._end()
        check(unwrapped(model), self._shapes)
        with written(self.weights) as partial:
            save(unwrapped(model), partial)
        self._saved = True

    @property
    def weights(self) -> Path:
        """Where `save` puts them."""
        return Path(self._task.folder) / "weights.safetensors"

    def result(self) -> TrainResult:
        """What is known by now."""
        self._phases.close()
        return TrainResult(
            seconds=dict(self._phases.seconds) | ({"train": self._clock.elapsed} if self._clock.started else {}),
            steps=self._steps or self._batches,
            tokens=self._tokens,
            parameters=self._parameters,
            active_parameters=None if self._active is None else int(self._active),
            peak_memory=self._peak_memory(),
            flops_per_token=self._flops,
            loss=self._curve.last,
            start_hash=self._start_hash or "",
        )

    def finish(self) -> None:
        """After main: Failure if there is nothing to score."""
        if not self._saved:
            raise Failure("main returned without run.save(model)")

    def _end(self) -> None:
        if not self._clock.ended:
            self._clock.end()
            self.progress = 1.0
            self._curve.drain(wait=True)
            self._phases.enter("save")

    def _peak_memory(self) -> int:
        """Bytes: of the GPU where there is one, else of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _received(line: int) -> int:
    """The descriptor of the text, once the house has seen that the clock is to start."""
    with socket.socket(fileno=os.dup(line)) as house:
        _, (file, *_), _, _ = socket.recv_fds(house, 1, 1)
    return file


def _weights_hash(model: nn.Module, device: torch.device) -> str:
    """SHA-256 over an even sample of each parameter: the whole would take seconds for a large model on a GPU."""
    digest, samples = hashlib.sha256(), [torch.zeros(0, device=device)]
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        samples.append(flat[:: max(1, flat.numel() // _HASHED)].to(device, torch.float32))
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
    digest.update(torch.cat(samples).cpu().numpy().tobytes())  # all at once: each copy would wait for the device
    return digest.hexdigest()


def _stated(model: nn.Module, name: str, most: float = sys.float_info.max) -> float | None:
    """What the model says of itself, as an attribute or a method; None if that is no positive number up to `most`."""
    stated = getattr(model, name, None)
    stated = stated() if callable(stated) else stated
    return float(stated) if isinstance(stated, int | float) and 0 < stated <= most else None
