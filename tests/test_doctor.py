"""`doctor`: what works, what does not and the remedy; with the network, the driver and the keys as they come."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch import provision
from autoresearch.corpus import hub, shards
from autoresearch.machine import cores
from autoresearch.units import format_size
from tests.conftest import COMMAND, Lab, recording
from tests.llm_server import KEY, LLMServer, Stall
from tests.test_cli import LESS, QUICK

WRONG = "sk-not-the-right-one-9876"


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as listening:
        yield listening


def findings(lab: Lab, *arguments: str, **env: str) -> dict[str, dict[str, str]]:
    """By name. Whatever it finds: JSON, no traceback, and no key in it."""
    done = lab.at(lab.root, **env)("doctor", *QUICK, *arguments, "--json")
    assert done.err == "" and done.code in (0, 1), done.err
    assert KEY not in done.out and WRONG not in done.out
    found = {finding["name"]: finding for finding in done.json}
    assert len(found) == len(done.json)
    assert (done.code == 1) is any(finding["state"] == "fails" for finding in done.json)
    assert all(finding["remedy"] for finding in done.json if finding["state"] != "works")
    return found


# ---------------------------------------------------------------------------------------------- who proposes


def test_no_key(finished: Lab) -> None:
    found = findings(finished)
    assert found["agent"]["state"] == "works"
    assert "search" in found["agent"]["found"] and "command:CMD" in found["agent"]["found"]


def test_every_key_that_is_set_is_checked_at_no_cost(finished: Lab, server: LLMServer) -> None:
    found = findings(finished, **server.environ())
    for name in ("anthropic", "openai"):  # the server has other models than the default ones
        assert "does not find the model" in found[name]["found"] and "Check its name" in found[name]["remedy"]
    assert (found["anthropic"]["state"], found["openai"]["state"]) == ("fails", "warns")  # a run asks the first
    assert server.requests and not server.asked


@pytest.mark.parametrize(("spec", "price"), [
    ("anthropic:claude-haiku-4-5", "$1 in and $5 out per million tokens"),
    ("openai:gpt-4o", "$2.5 in and $10 out per million tokens"),
    ("openai:nobody-knows-my-price", "price not known"),
])  # fmt: skip
def test_an_agent_that_is_named(finished: Lab, server: LLMServer, spec: str, price: str) -> None:
    found = findings(finished, "--agent", spec, **server.environ())
    model = spec.partition(":")[2]
    assert found["agent"]["state"] == "works"
    assert found["agent"]["found"].startswith(f"{model} at {server.url}") and price in found["agent"]["found"]
    assert "anthropic" not in found and "openai" not in found
    assert not server.asked


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_a_wrong_key(finished: Lab, server: LLMServer, provider: str) -> None:
    key = f"{provider.upper()}_API_KEY"
    found = findings(finished, **server.environ() | {"ANTHROPIC_API_KEY": "", "OPENAI_API_KEY": "", key: WRONG})
    assert found[provider]["state"] == "fails"
    assert f"refuses the key in {key} (401)" in found[provider]["found"]
    assert "agent" not in found


def test_a_server_that_is_down_silent_or_nowhere(finished: Lab, server: LLMServer) -> None:
    """A run would wait for it: a warning."""
    named = ("--agent", "openai:gpt-4o")
    server.trouble = Stall(60)
    silent = findings(finished, *named, **server.environ())["agent"]
    server.down()
    down = findings(finished, *named, **server.environ())["agent"]
    nowhere = server.environ() | {"OPENAI_BASE_URL": "http://no-such-host.invalid/v1"}
    unknown = findings(finished, *named, **nowhere)["agent"]
    for finding in (silent, down, unknown):
        assert finding["state"] == "warns" and "would wait for it" in finding["remedy"], finding
    assert "does not answer" in silent["found"] and "cannot be reached" in down["found"] + unknown["found"]


@pytest.mark.parametrize(("spec", "state", "said"), [
    ("search", "works", "no key"),
    ("command:cat", "works", "command:cat"),
    ("command:no-such-mind", "fails", "no-such-mind"),
    ("replay:nowhere.jsonl", "fails", "cannot be read"),
    ("oracle", "fails", "no agent 'oracle'"),
    ("anthropic:claude-haiku-4-5", "fails", "ANTHROPIC_API_KEY is not set"),
])  # fmt: skip
def test_other_agents(finished: Lab, spec: str, state: str, said: str) -> None:
    found = findings(finished, "--agent", spec)["agent"]
    assert found["state"] == state and said in found["found"]


def test_a_recording(finished: Lab, tmp_path: Path) -> None:
    assert findings(finished, "--agent", recording(tmp_path / "r.jsonl", "a"))["agent"]["state"] == "works"


def test_a_base_url_that_is_none(finished: Lab) -> None:
    found = findings(finished, OPENAI_API_KEY=KEY, OPENAI_BASE_URL="localhost")["openai"]
    assert found["state"] == "fails" and "OPENAI_BASE_URL" in found["found"]


# ---------------------------------------------------------------------------------------------- the GPU


def with_driver(lab: Lab, folder: Path, gpus: str, apps: str = "", code: int = 0) -> Lab:
    """The lab on a machine whose nvidia-smi prints this; a line of `gpus`: uuid, name, driver, total, free (MiB)."""
    folder.mkdir()
    (folder / "gpus").write_text(textwrap.dedent(gpus))
    (folder / "apps").write_text(textwrap.dedent(apps))
    tool = folder / "nvidia-smi"
    tool.write_text(f"""#!/bin/sh
case "$1" in
--query-gpu=*) cat {folder}/gpus;;
--query-compute-apps=*) cat {folder}/apps;;
esac
exit {code}
""")
    tool.chmod(0o755)
    return lab.at(lab.root, PATH=f"{folder}:{lab.environ()['PATH']}")


H200 = "GPU-8d5c6f0a-1111-2222-3333-444444444444, NVIDIA H200, 570.86.15, 143771, {free}"


def test_a_machine_without_nvidia_smi(finished: Lab) -> None:
    assert findings(finished)["gpu"]["state"] == "works"
    assert "nvidia-smi is not here" in findings(finished)["gpu"]["found"]


def test_an_empty_gpu(finished: Lab, tmp_path: Path) -> None:
    found = findings(with_driver(finished, tmp_path / "bin", H200.format(free=143155)))["gpu"]
    assert found["state"] == "works"
    assert found["found"] == "NVIDIA H200, driver 570.86.15, 140.4 GiB memory, 139.8 GiB free"


def test_a_gpu_that_somebody_uses(finished: Lab, tmp_path: Path) -> None:
    uuid = H200.partition(",")[0]
    apps = f"""\
        {uuid}, 4242, /usr/bin/python3, 61234
        {uuid}, 77, a name, with commas, [N/A]
        {uuid}, [N/A], [Not Found], [N/A]
        GPU-another, 5, python, 10
        what is this
        """
    found = findings(with_driver(finished, tmp_path / "bin", H200.format(free=82000), apps))["gpu"]
    assert found["state"] == "warns" and "CUDA_VISIBLE_DEVICES" in found["remedy"]
    assert (
        "80.1 GiB free; in use by process 4242 python3 59.8 GiB, process 77 a name, with commas unknown"
        in (found["found"])
    )
    assert "process 5 " not in found["found"]


def test_several_gpus_and_the_one_that_is_chosen(finished: Lab, tmp_path: Path) -> None:
    """The first visible one is used: that another is full is no matter."""
    two = "GPU-aaa, NVIDIA A100, 570.1, 81920, 80000\nGPU-bbb, NVIDIA A100, 570.1, 81920, 100"
    lab = with_driver(finished, tmp_path / "bin", two, "GPU-bbb, 9, python, 81000")
    found = findings(lab)
    assert (found["gpu"]["state"], found["gpu 1"]["state"]) == ("works", "works")
    assert "process 9 python" in found["gpu 1"]["found"]
    chosen = findings(lab, CUDA_VISIBLE_DEVICES="1")
    assert chosen["gpu"]["state"] == "warns" and "gpu 1" not in chosen


def test_less_free_than_the_program_may_take(lab: Lab, tmp_path: Path) -> None:
    lab.write_program("budget: 60s", "budget: 60s\nmemory_limit: 75GB")
    assert findings(with_driver(lab, tmp_path / "bin", H200.format(free=60000)))["gpu"]["state"] == "warns"


@pytest.mark.parametrize(("gpus", "code"), [
    ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
    ("Failed to initialize NVML: Driver/library version mismatch", 18),
    ("", 0), ("\x00\xff, , ,,,\n,,,,\n", 0), ("No devices were found", 6),
])  # fmt: skip
def test_a_driver_that_is_broken_or_says_other_things(finished: Lab, tmp_path: Path, gpus: str, code: int) -> None:
    found = findings(with_driver(finished, tmp_path / "bin", gpus, gpus, code))["gpu"]
    assert found["state"] == ("warns" if code else "works")
    assert not code or gpus.rstrip(".") in found["found"]


def test_a_gpu_that_has_no_memory_of_its_own(finished: Lab, tmp_path: Path) -> None:
    found = findings(with_driver(finished, tmp_path / "bin", "GPU-1, NVIDIA GB10, 580.95.05, [N/A], [N/A]"))["gpu"]
    assert found["state"] == "works"
    assert found["found"] == "NVIDIA GB10, driver 580.95.05, unknown memory, unknown free"


def test_a_program_for_a_gpu_whose_driver_is_broken(lab: Lab, tmp_path: Path) -> None:
    """It is said why no GPU is seen: an NVIDIA driver that fails is not a machine without one."""
    lab.write_program("device: cpu", "device: cuda")
    said = "Failed to initialize NVML: Driver/library version mismatch"
    device = findings(with_driver(lab, tmp_path / "bin", said, code=18))["device"]
    assert device["state"] == "fails" and f"nvidia-smi fails: {said}" in device["found"]


# ---------------------------------------------------------------------------------------------- the sandbox


def test_each_protection_is_attacked_and_named(finished: Lab) -> None:
    found = findings(finished)
    protections = {name: finding for name, finding in found.items() if name.startswith("sandbox: ")}
    assert len(protections) == 10
    missing = [name for name, finding in protections.items() if finding["state"] != "works"]
    assert found["sandbox"]["state"] == ("warns" if missing else "works")
    assert f"attacked in 10 ways, {len(missing)} of which got through" in found["sandbox"]["found"]


@pytest.mark.skipif(sys.platform != "linux", reason="a sandbox is made on Linux alone")
def test_what_a_container_refuses_is_a_warning_with_a_remedy(finished: Lab) -> None:
    command = [sys.executable, "-c", LESS, str(COMMAND), "doctor", *QUICK, "--json"]
    done = subprocess.run(
        command, cwd=finished.root, env=finished.environ(), text=True, capture_output=True, check=False
    )
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    bomb = found["sandbox: processes"]
    assert bomb["state"] == found["sandbox"]["state"] == "warns"
    assert bomb["found"].startswith("begins processes without end; ") and "Operation not permitted" in bomb["found"]
    assert "user namespaces" in bomb["remedy"]
    assert found["sandbox: network"]["state"] == "works"


# ---------------------------------------------------------------------------------------------- the disk


def test_room_for_the_programs_corpus(lab: Lab, tmp_path: Path) -> None:
    """More is wanted for a corpus that is still to be prepared, and most for one that is still to be fetched."""

    def wanted(*arguments: str, **env: str) -> float:
        found = findings(lab, *arguments, **env)["disk"]["found"]
        number, unit = found.partition("about ")[2].split()[:2]
        return float(number) * {"GB": 1, "TB": 1000}[unit]

    cold = {"AUTORESEARCH_CACHE": str(tmp_path / "cold")}
    assert wanted() == wanted(**cold) == 2.0  # a few kilobytes of text do not show
    lab.write_program("budget: 60s", "budget: 5h")
    assert 2.0 < wanted("--corpus", "stdlib", **cold) < wanted("--corpus", "climbmix", **cold)


def test_what_is_to_be_fetched_is_reckoned_as_prepare_does(lab: Lab, tmp_path: Path) -> None:
    """Whole shards, and the one that is held out."""
    lab.write_program("budget: 60s", "budget: 5h")
    cold = {"AUTORESEARCH_CACHE": str(tmp_path / "cold")}
    plan = shards.plan(
        hub.expected(hub.DATASETS["climbmix"]), [256], int(provision.PASSES * 18000 * 15_000 * cores()), None
    )
    found = findings(lab, "--corpus", "climbmix", **cold)["disk"]["found"]
    assert f"about {format_size(2e9 + plan.download + plan.space.work)} wanted" in found
    assert len(plan.files) > 2


def test_a_cache_that_cannot_be_written(finished: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = findings(finished, AUTORESEARCH_CACHE=str(tmp_path / "file"))["disk"]
    assert found["state"] == "fails" and "AUTORESEARCH_CACHE" in found["remedy"]
