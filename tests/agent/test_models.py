"""The models: a real command, and a recording."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from autoresearch.agent import process
from autoresearch.agent.models import CommandModel, ReplayModel, as_document
from autoresearch.errors import AgentError, DeadlinePassed, ModelUnavailable
from autoresearch.records import Message

MESSAGES = (Message("system", "Rules.\n"), Message("user", "Propose: größer"))


def command(tmp_path: Path, code: str, limit: float = 60.0, environ: dict[str, str] | None = None) -> CommandModel:
    script = tmp_path / "agent.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    return CommandModel(f"'{sys.executable}' '{script}'", dict(os.environ) if environ is None else environ, limit)


def gone(pid: int, patience: float = 10.0) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def wait_for(path: Path) -> int:
    """The pid that a process under test has written to a file."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


class TestCommand:
    def test_the_prompt_comes_on_stdin_and_the_reply_from_stdout(self, tmp_path):
        model = command(tmp_path, "import sys; sys.stdout.buffer.write(b'<' + sys.stdin.buffer.read() + b'>')")
        assert model.complete(MESSAGES).text == "<Rules.\n\nPropose: größer\n>"
        assert model.name.startswith("command:")

    def test_a_prompt_larger_than_a_pipe_that_the_command_does_not_read(self, tmp_path):
        model = command(tmp_path, "print('reply')")
        assert model.complete([Message("user", "x" * 1_000_000)]).text == "reply\n"

    def test_it_gets_the_environment_it_is_given(self, tmp_path):
        model = command(
            tmp_path, "import os; print(os.environ.get('KEY'), os.environ.get('HOME'))", environ={"KEY": "k"}
        )
        assert model.complete(MESSAGES).text == "k None\n"

    def test_the_command_line_is_split_as_by_a_shell(self, tmp_path):
        model = CommandModel(f"{sys.executable} -c 'import sys; print(sys.argv[1:])' \"a b\" c", dict(os.environ))
        assert model.complete(MESSAGES).text == "['a b', 'c']\n"

    def test_bytes_that_are_no_text(self, tmp_path):
        model = command(tmp_path, r"import sys; sys.stdout.buffer.write(b'a\xff\n')")
        assert model.complete(MESSAGES).text == "a\ufffd\n"

    def test_a_failure_shows_its_last_words_in_one_safe_line(self, tmp_path):
        model = command(
            tmp_path, r"import sys; print('x' * 9000 + '\n\x1b[31mno credit left', file=sys.stderr); sys.exit(3)"
        )
        with pytest.raises(ModelUnavailable) as error:
            model.complete(MESSAGES)
        assert "exit code 3" in str(error.value) and 'no credit left"' in str(error.value)
        assert str(error.value).isprintable() and len(str(error.value)) < 700

    @pytest.mark.parametrize("spec", ["no-such-agent --flag", "/", "./missing 'a b'"])
    def test_a_missing_command_has_a_remedy(self, spec):
        with pytest.raises(AgentError) as error:
            CommandModel(spec, {"PATH": "/usr/bin"})
        assert not isinstance(error.value, ModelUnavailable)
        assert spec.split()[0] in error.value.message and "PATH" in error.value.remedy

    @pytest.mark.parametrize("spec", ["", "  ", "agent 'unclosed"])
    def test_a_senseless_command_has_a_remedy(self, spec):
        with pytest.raises(AgentError) as error:
            CommandModel(spec, {})
        assert error.value.remedy

    def test_it_is_ended_when_its_time_is_over_with_all_that_it_started(self, tmp_path, monkeypatch):
        def now() -> float:  # much later, once that is there
            return time.monotonic() + 1e6 * ((tmp_path / "pid").exists() and (tmp_path / "pid").stat().st_size > 0)

        monkeypatch.setattr(process, "time", SimpleNamespace(sleep=time.sleep, monotonic=now))
        model = command(
            tmp_path,
            f"""
            import subprocess, sys, time
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
            time.sleep(600)
            """,
            limit=600.0,
        )
        with pytest.raises(ModelUnavailable, match="did not finish within 10m 00s"):
            model.complete(MESSAGES)
        assert gone(wait_for(tmp_path / "pid"))

    def test_it_is_ended_when_a_reply_would_come_too_late(self, tmp_path):
        model = command(tmp_path, "import time; time.sleep(600)")
        with pytest.raises(DeadlinePassed):
            model.complete(MESSAGES, until=time.time() + 0.5)

    def test_a_child_it_leaves_behind_does_not_hold_the_reply(self, tmp_path):
        model = command(
            tmp_path,
            f"""
            import subprocess, sys
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
            print("reply")
            """,
        )
        assert model.complete(MESSAGES).text == "reply\n"
        assert gone(wait_for(tmp_path / "pid"))

    def test_endless_output_is_cut_off(self, tmp_path):
        model = command(tmp_path, "while True: print('x' * 1000)")
        with pytest.raises(AgentError, match="printed more than a reply can be"):
            model.complete(MESSAGES)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_it_does_not_outlive_a_house_that_is_interrupted_or_killed(self, tmp_path, number):
        agent = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
        (tmp_path / "agent.py").write_text(agent)
        house = tmp_path / "house.py"
        house.write_text(
            "import os, sys\n"
            "from autoresearch.agent.models import CommandModel\n"
            f"CommandModel(sys.executable + ' ' + {str(tmp_path / 'agent.py')!r}, dict(os.environ)).complete(())\n"
        )
        process = subprocess.Popen([sys.executable, str(house)], stderr=subprocess.DEVNULL)
        try:
            agent_pid = wait_for(tmp_path / "pid")
            process.send_signal(number)
            process.wait(timeout=30)
            assert gone(agent_pid)
        finally:
            process.kill()
            process.wait()

    def test_it_does_not_outlive_an_interrupt_before_the_house_knows_of_it(self, tmp_path, monkeypatch):
        class Popen(subprocess.Popen):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                if "pass_fds" in kwargs:  # what becomes the command
                    wait_for(tmp_path / "pid")
                    raise KeyboardInterrupt

        code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
        model = command(tmp_path, code)
        monkeypatch.setattr(process.subprocess, "Popen", Popen)
        with pytest.raises(KeyboardInterrupt):
            model.complete(MESSAGES)
        assert gone(wait_for(tmp_path / "pid"))

    def test_it_leads_its_group_which_it_cannot_leave(self, tmp_path):
        """As `timeout` would, of which the command could be one."""
        code = f"""
            import os, time
            try:
                os.setpgid(0, 0)
            except PermissionError:
                pass
            open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
            assert os.getpid() == os.getpgid(0) == os.getsid(0)
            print("x" * 10_000_000, flush=True)
            time.sleep(600)
            """
        with pytest.raises(ModelUnavailable, match="printed more"):
            command(tmp_path, code).complete(MESSAGES)
        assert gone(wait_for(tmp_path / "pid"))

    def test_it_finds_signals_descriptors_and_children_as_a_shell_would_leave_them(self, tmp_path):
        if not Path("/proc/self/task").exists():
            pytest.skip("processes are looked at through /proc")
        code = "grep SigIgn /proc/self/status; echo /proc/self/fd/*; cat /proc/$$/task/$$/children"
        (tmp_path / "agent.sh").write_text(code)
        shell = subprocess.run(["sh", tmp_path / "agent.sh"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        found = CommandModel(f"sh '{tmp_path}/agent.sh'", dict(os.environ)).complete(MESSAGES).text
        assert re.sub("[0-9]+ $", "", found) == re.sub("[0-9]+ $", "", shell.stdout)
        assert found.startswith("SigIgn:") and not int(found.split()[1], 16) & 0x1001000  # SIGXFSZ and SIGPIPE

    def test_a_command_that_cannot_be_started_has_a_remedy(self, tmp_path):
        script = tmp_path / "agent"
        script.write_text("#!/no/such/interpreter\n")
        script.chmod(0o755)
        with pytest.raises(AgentError, match="cannot be started: No such file") as error:
            CommandModel(str(script), dict(os.environ)).complete(MESSAGES)
        assert not isinstance(error.value, ModelUnavailable) and error.value.remedy


class TestReplay:
    def recording(self, tmp_path: Path, *replies: str) -> Path:
        path = tmp_path / "replies.jsonl"
        path.write_text("".join(json.dumps({"reply": reply, "note": 1}) + "\n" for reply in replies) + "\n")
        return path

    def test_replies_come_in_order_and_then_it_has_ended(self, tmp_path):
        model = ReplayModel(self.recording(tmp_path, "one", "two\u2028\n"))
        assert [model.complete(()).text for _ in range(2)] == ["one", "two\u2028\n"]
        with pytest.raises(AgentError, match="ended after 2 replies"):
            model.complete(())

    def test_half_a_character_is_none(self, tmp_path):
        assert ReplayModel(self.recording(tmp_path, "a\ud800")).complete(()).text == "a\ufffd"

    def test_those_used_up_are_skipped(self, tmp_path):
        model = ReplayModel(self.recording(tmp_path, "one", "two"))
        model.used = 1
        assert model.complete(()).text == "two" and model.used == 2

    @pytest.mark.parametrize("line", ["{", "[]", "3", '{"reply": 3}', '{"text": "a"}', "[" * 100_000])
    def test_a_line_that_is_no_reply_is_named(self, tmp_path, line):
        path = tmp_path / "replies.jsonl"
        path.write_text('{"reply": "a"}\n' + line + "\n")
        with pytest.raises(AgentError, match="Line 2 of the recording"):
            ReplayModel(path)

    def test_a_file_that_cannot_be_read(self, tmp_path):
        (tmp_path / "bytes").write_bytes(b"\xff\xfe")
        for path in (tmp_path / "missing", tmp_path, tmp_path / "bytes"):
            with pytest.raises(AgentError, match="cannot be read"):
                ReplayModel(path)


def test_a_conversation_as_one_document():
    messages = (*MESSAGES, Message("assistant", "A"), Message("user", "Again."))
    assert as_document(messages) == "Rules.\n\nPropose: größer\n\n=== Your reply was ===\n\nA\n\nAgain.\n"
