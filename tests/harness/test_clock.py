"""The clock, with a device that works behind the host."""

import time

import pytest
import torch

from autoresearch.harness.clock import Clock


class Device:
    """A GPU in a made-up time: what it is given takes `pace` seconds each, one after another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.busy = 100.0
        self.pace = 0.15
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch.cuda, "Event", self.event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: self.wait(self.busy))

    def launch(self) -> None:
        self.now += 0.002
        self.busy = max(self.busy, self.now) + self.pace

    def wait(self, until: float) -> None:
        self.now = max(self.now, until)

    def event(self):
        device, until = self, None

        class Event:
            def record(self) -> None:
                nonlocal until
                until = device.busy

            def synchronize(self) -> None:
                device.wait(until)

        return Event()


def trained(clock: Clock, device: Device, held_up: int | None = None) -> float:
    """Seconds on the clock in the end; one batch may be held up for long."""
    clock.start()
    done = 0
    while not clock.spent(done):
        device.launch()
        if done == held_up:
            device.busy += 3.0
        done += 1
        clock.fence()
    clock.end()
    return clock.elapsed


@pytest.mark.parametrize("pace", [0.01, 0.15, 0.7])
def test_training_ends_within_a_batch_of_its_budget(monkeypatch, pace):
    device = Device(monkeypatch)
    device.pace = pace
    seconds = trained(Clock(60.0, None, torch.device("cuda")), device)
    assert 60.0 <= seconds < 60.0 + pace + 0.01


def test_a_batch_that_was_held_up_ends_nothing_early(monkeypatch):
    device = Device(monkeypatch)
    assert 60.0 <= trained(Clock(60.0, None, torch.device("cuda")), device, held_up=375) < 60.2


def test_few_batches_in_the_whole_budget(monkeypatch):
    device = Device(monkeypatch)
    device.pace = 40.0
    assert trained(Clock(60.0, None, torch.device("cuda")), device) >= 60.0
