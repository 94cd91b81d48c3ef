"""A corpus that five minutes can read several times over: said wherever a person or a model looks at figures."""

import re
from pathlib import Path

from tests.conftest import DISCARDED, KEPT, Lab, recording

WARNING = r"warning: training passed (\d+\.\d) times over the corpus"


def test_a_corpus_that_is_passed_more_than_once_is_said(lab: Lab, tmp_path: Path) -> None:
    """Four-word documents, some kilobytes in all, and twenty steps of eight rows of 64 bytes."""
    texts = tmp_path / "few"
    texts.mkdir()
    for number in range(120):
        (texts / f"{number}.txt").write_text(f"number {number} is {'odd' if number % 2 else 'even'}\n")
    corpus = ("--corpus", texts)
    program = ("-p", lab.write_program("max_steps: 2", "max_steps: 20"))
    assert lab("prepare", *program, *corpus).code == 0

    asked = recording(tmp_path / "replies.jsonl", KEPT, DISCARDED)
    run = lab("run", *program, *corpus, "-n", 2, "-a", asked)
    assert run.code == 0, run.err
    (passes,) = re.findall(WARNING, run.out)
    assert float(passes) > 1.5
    assert run.out.index("warning:") < run.out.index("#2")  # as soon as the baseline is measured
    again = lab("run", *program, *corpus, "-n", 3, "-a", asked)
    assert again.code == 0 and re.findall(WARNING, again.out) == [passes], again.err
    assert re.findall(WARNING, lab("status").out) == [passes]
    assert re.findall(WARNING, lab("show", 1).out) == [passes]

    prompt = next((lab.ledger.parent / "runs" / "quick" / "2").glob("call-*.json")).read_text()
    assert f"{passes}" in prompt and "with text that is repeated" in prompt


def test_a_corpus_that_is_not_repeated_is_not_warned_of(finished: Lab) -> None:
    for command in (("status",), ("show", 1)):
        assert "warning" not in finished(*command).out
    assert re.search(r"0\.\d+ passes over the corpus", finished("show", 1).out)
