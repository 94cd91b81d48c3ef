import json
import shutil
from pathlib import Path

import pytest

from autoresearch.engine import device, environment, fingerprint, gpus
from autoresearch.engine.events import Tail
from autoresearch.engine.fingerprint import harness_fingerprint
from autoresearch.errors import EngineError


def test_environment_is_an_allow_list(tmp_path):
    caller = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "OPENAI_API_KEY": "k",
        "TORCH_TOKEN": "t",
        "TORCHINDUCTOR_CACHE_DIR": "/shared",
        "SSH_AUTH_SOCK": "s",
    }
    env = environment.passed_on(caller) | environment.own(tmp_path / "home", tmp_path / "compiled")
    assert env["PATH"] == "/bin"
    assert env["CUDA_VISIBLE_DEVICES"] == "1"
    assert env["HOME"] == str(tmp_path / "home")
    assert env["TORCHINDUCTOR_CACHE_DIR"] == str(
        tmp_path / "compiled" / "inductor"
    )  # what others write there would be run here
    assert not {"OPENAI_API_KEY", "TORCH_TOKEN", "SSH_AUTH_SOCK"} & env.keys()


def test_events_are_read_as_they_come_and_nonsense_is_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert not tail.read()
    point = '{"kind": "point", "step": 3, "seconds": 1.5, "progress": 0.5, "loss": 2.0, "tokens": 300}'
    with path.open("a", buffering=1) as file:
        file.write('{"kind": "phase", "phase": "import"}\nno json\n')
        assert not tail.read()  # it begins with that
        file.write('{"kind": "phase", "phase": "train"}\n' + point[:20])
        assert tail.read()
        assert (tail.phase, tail.points) == ("train", [])
        file.write(point[20:] + "\n")
        file.write(
            'no json\n{"kind": "phase", "phase": "import"}\n{"kind": "point", "loss": NaN}\n' + "x" * 100_000 + "\n"
        )
        assert tail.read()
    assert tail.phase == "train"  # there is no way back before the clock
    assert [p.loss for p in tail.points] == [2.0]
    assert tail.tokens_per_second == 200


@pytest.mark.parametrize("field", ["step", "seconds", "loss", "tokens", "memory"])
def test_numbers_that_cannot_be_reckoned_with_are_no_event(field, tmp_path):
    point = {"kind": "point", "step": 3, "seconds": 1.5, "progress": 0.5, "loss": 2.0, "tokens": 300, "memory": 5}
    for number in (10**400, 1.7e308, -1.7e308)[: 1 if field == "loss" else 3]:
        path = tmp_path / f"{number}"[:9]
        path.write_text(json.dumps(point) + "\n" + json.dumps(point | {field: number}) + "\n")
        tail = Tail(path)
        assert tail.read() and len(tail.points) == 1
        assert (tail.tokens, tail.memory) == (300, 5)


def test_a_loss_that_has_exploded_is_one_all_the_same(tmp_path):
    path = tmp_path / "events.jsonl"
    point = '{{"kind": "point", "step": {}, "seconds": 1, "progress": 0.5, "loss": {}, "tokens": 1}}\n'
    path.write_text(point.format(1, 1.7e308) + point.format(2, -1.7e308))
    tail = Tail(path)
    assert tail.read() and [p.loss for p in tail.points] == [1e9, -1e9]


def test_a_long_curve_is_thinned_and_keeps_its_end(tmp_path):
    path = tmp_path / "events.jsonl"
    point = '{{"kind": "point", "step": {}, "seconds": 1, "progress": 0.5, "loss": 2.0, "tokens": 1}}\n'
    path.write_text("".join(point.format(step) for step in range(9001)))
    tail = Tail(path)
    while tail.read():
        pass
    steps = [p.step for p in tail.curve(200)]
    assert 100 <= len(steps) <= 200
    assert steps == sorted(steps)
    assert steps[-1] == 9000


def test_fingerprint_is_that_of_the_code(tmp_path, monkeypatch):
    assert len(harness_fingerprint()) == 64
    package = tmp_path / "autoresearch"
    shutil.copytree(Path(fingerprint.__file__).parents[1], package)
    monkeypatch.setattr(fingerprint, "_PACKAGE", package)
    found = [harness_fingerprint()]
    for changed in (package / "harness" / "hopper" / "mlp.py", package / "corpus" / "reader.py"):
        changed.write_text(changed.read_text() + "\n")
        found.append(harness_fingerprint())
    assert len(set(found)) == 3


def test_device_is_found_or_its_lack_is_said(monkeypatch):
    assert device.resolve_device("cpu") == "cpu"
    assert "cores" in device.describe_hardware("cpu")
    assert device.peak_flops("NVIDIA H200") == 989e12
    assert device.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert device.peak_flops("NVIDIA GeForce RTX 4060 Ti") == 44e12
    assert device.peak_flops("NVIDIA GeForce RTX 4060") == 30e12
    assert device.peak_flops("Imaginary 1") is None
    monkeypatch.setattr(gpus.shutil, "which", lambda _: None)
    with pytest.raises(EngineError, match="No NVIDIA GPU"):
        device.resolve_device("cuda")


SMI = """#!/bin/sh
echo "GPU-aaaa1111-0, NVIDIA A100-SXM4-80GB, 570.1, 81920, 81000"
echo "GPU-aaaa2222-0, NVIDIA H200, 570.1, 143771, 143000"
"""


@pytest.mark.parametrize(
    ("visible", "seen", "hiding"),
    [
        (None, ["A100", "H200"], "0"),
        ("1", ["H200"], None),
        ("1,0", ["H200", "A100"], "1"),
        ("GPU-aaaa2", ["H200"], None),
        ("GPU-aaaa2222-0, 0", ["H200", "A100"], "GPU-aaaa2222-0"),
        ("GPU-aaaa", [], None),  # it could be either
        ("0,7,1", ["A100"], None),  # as CUDA does: nothing after what names none
        ("", [], None),
        ("-1", [], None),
        ("MIG-aaaa", ["A100"], None),
        ("MIG-aaaa,MIG-bbbb", ["A100", "A100"], "MIG-aaaa"),
        ("MIG-GPU-aaaa2222-0/1/0", ["H200"], None),
    ],
)
def test_gpus_are_those_that_the_environment_leaves_visible(visible, seen, hiding, tmp_path, monkeypatch):
    """hiding: what leaves the first of them alone."""
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert [gpu.name.split("A ")[1].removesuffix("-SXM4-80GB") for gpu in gpus.visible_gpus(environ)] == seen
    assert gpus.first_alone(environ, gpus.visible_gpus(environ)).get("CUDA_VISIBLE_DEVICES") == hiding
    assert device.resolve_device("auto", environ) == ("cuda" if seen else "cpu")
    if seen:
        assert device.describe_hardware("cuda", environ).startswith(f"NVIDIA {seen[0]}")
    else:
        with pytest.raises(EngineError, match=r"CUDA_VISIBLE_DEVICES=.* hides them all"):
            device.resolve_device("cuda", environ)


def smi(folder, monkeypatch, script):
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_driver_that_is_broken_is_not_a_machine_without_a_gpu(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    with pytest.raises(EngineError, match="nvidia-smi fails: Failed to initialize NVML"):
        device.resolve_device("cuda")
    assert device.resolve_device("auto") == "cpu"


def test_a_gpu_that_has_no_memory_of_its_own_is_one(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, "echo 'GPU-1, NVIDIA GB10, 580.95.05, [N/A], [N/A]'")
    assert gpus.visible_gpus({}) == [gpus.Gpu("GPU-1", "NVIDIA GB10", "580.95.05", None, None)]
    assert device.resolve_device("auto") == "cuda"
    assert device.describe_hardware("cuda") == "NVIDIA GB10, memory unknown"
