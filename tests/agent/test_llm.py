"""From a model's replies to a proposal: repairs are bounded, and every call is recorded before its reply is read."""

from dataclasses import replace

import pytest

from autoresearch.agent.calls import Caller
from autoresearch.agent.llm import LLMAgent
from autoresearch.agent.models import Completion
from autoresearch.errors import AgentError, ModelUnavailable
from autoresearch.records import Usage
from tests.agent.briefs import PATH, SOURCE, brief
from tests.agent.scripted import Desk, Script

HEADER = "TITLE: Deeper\nFAMILY: architecture\nHYPOTHESIS: More layers.\nEXPECT: -0.01\n"
BLOCK = """\
train_core.py
<<<<<<< SEARCH
DEPTH = 4  # [2, 12]; blocks
=======
DEPTH = 5  # [2, 12]; blocks
>>>>>>> REPLACE
"""
GOOD = HEADER + BLOCK
BAD = GOOD.replace("DEPTH = 4", "DEPTH = 3")
DEEPER = SOURCE.replace("DEPTH = 4", "DEPTH = 5")


def proposed(*replies, **changes):
    model, desk = Script(*replies), Desk()
    proposal = LLMAgent(Caller(model, desk, sleep=lambda seconds: None)).propose(brief(**changes))
    return proposal, model, desk.exchanges


def test_a_patch_that_applies_at_first():
    proposal, model, exchanges = proposed(GOOD)
    assert proposal.patch is not None and dict(proposal.patch.files) == {PATH: DEEPER}
    assert (proposal.title, proposal.family, proposal.expect) == ("Deeper", "architecture", -0.01)
    assert (proposal.replies, proposal.failure) == (1, None)
    (exchange,) = exchanges
    assert (exchange.model, exchange.reply, exchange.usage.input_tokens) == ("script", GOOD, 10)
    assert exchange.messages == model.asked[0] and exchange.seconds >= 0


def test_a_repair_is_told_the_block_and_the_nearest_lines_and_may_leave_out_the_header():
    proposal, model, exchanges = proposed(BAD, BLOCK)
    assert (proposal.title, proposal.replies, len(exchanges)) == ("Deeper", 2, 2)
    assert proposal.patch is not None
    *_, said, reason = model.asked[1]
    assert (said.role, said.content) == ("assistant", BAD)
    assert reason.role == "user" and "block 1" in reason.content
    assert "    5 | DEPTH = 4  # [2, 12]; blocks" in reason.content
    assert model.asked[1][:2] == model.asked[0]


def test_after_two_repairs_the_whole_file_is_asked_for_once():
    whole = f"{PATH}\n```python\n{DEEPER}```\n"
    proposal, model, _ = proposed(BAD, BAD, BAD, whole)
    assert proposal.patch is not None and dict(proposal.patch.files) == {PATH: DEEPER}
    assert proposal.replies == 4
    assert "whole of train_core.py" in model.asked[3][-1].content
    assert "whole of" not in model.asked[2][-1].content


def test_then_it_has_failed_and_says_why():
    proposal, _, exchanges = proposed(BAD, "Sorry.", "no idea", BAD)
    assert proposal.patch is None and proposal.title == "Deeper"
    assert proposal.failure is not None and proposal.failure.startswith("block 1: SEARCH matches nowhere")
    assert "\n" not in proposal.failure
    assert proposal.replies == len(exchanges) == 4


def test_an_empty_reply_or_a_refusal_is_not_argued_with():
    for reply in ("", "  \n"):
        proposal, _, exchanges = proposed(reply, GOOD)
        assert (proposal.patch, proposal.failure, len(exchanges)) == (None, "the reply was empty", 1)
    refusal = Completion("I would rather not.", Usage(), "refused", "policy")
    proposal, _, exchanges = proposed(refusal, GOOD)
    assert (proposal.patch, proposal.failure, len(exchanges)) == (None, "the model refused: policy", 1)
    assert proposed(BAD, Completion("", Usage(), "refused"))[0].failure == "the model refused"


def test_a_reply_that_was_cut_is_never_applied_even_if_its_first_blocks_would_be():
    proposal, model, _ = proposed(Completion(GOOD, Usage(), "cut"), GOOD)
    assert proposal.patch is not None and proposal.replies == 2
    assert "cut off at the limit of its length" in model.asked[1][-1].content


def test_a_reply_cut_before_its_first_word_is_not_sent_back_as_an_empty_message():
    proposal, model, _ = proposed(Completion("", Usage(), "cut"), GOOD)
    assert proposal.patch is not None
    assert all(message.content.strip() for message in model.asked[1])


def test_what_a_failing_call_cost_is_recorded_up_to_it():
    desk = Desk()
    with pytest.raises(AgentError, match="The model is gone"):
        LLMAgent(Caller(Script(BAD, AgentError("The model is gone.")), desk)).propose(brief())
    assert [exchange.reply for exchange in desk.exchanges] == [BAD]


def test_a_call_that_fails_is_made_again_with_the_same_words():
    gone = ModelUnavailable("Overloaded.")
    proposal, model, exchanges = proposed(gone, gone, BAD, gone, GOOD)
    assert proposal.patch is not None and proposal.replies == 2
    assert [exchange.error for exchange in exchanges] == ["Overloaded.", "Overloaded.", None, "Overloaded.", None]
    assert model.asked[0] == model.asked[2] != model.asked[3]


def test_the_deadline_reaches_the_model():
    model = Script(GOOD)
    LLMAgent(Caller(model, Desk())).propose(replace(brief(), until=9e9))
    assert model.bounds == [(9e9, None)]


def test_a_record_that_fails_stops_before_the_reply_is_used():
    class Full(Desk):
        def record(self, exchange):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        LLMAgent(Caller(Script(GOOD), Full())).propose(brief())


@pytest.mark.parametrize(
    ("search", "replace", "reason"),
    [
        ("VOCAB_SIZE = 256", "VOCAB_SIZE = 1000", "VOCAB_SIZE = 1000 is not on offer; the program allows 256, 2048"),
        ("CONTEXT = 128", "CONTEXT = 2 * 64", "CONTEXT must stay"),
        ("VOCAB_SIZE = 256", "from math import pi as VOCAB_SIZE", "VOCAB_SIZE must stay"),
        ("VOCAB_SIZE = 256", "VOCAB_SIZE = True", "VOCAB_SIZE must stay"),
    ],
)
def test_a_constant_that_the_house_reads_must_stay_one(search, replace, reason):
    bad = HEADER + f"<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"
    proposal, model, _ = proposed(bad, GOOD, vocab_sizes=[256, 2048])
    assert proposal.replies == 2
    assert reason in model.asked[1][-1].content


def test_a_vocabulary_on_offer_may_be_chosen():
    reply = HEADER + "<<<<<<< SEARCH\nVOCAB_SIZE = 256\n=======\nVOCAB_SIZE = 2048\n>>>>>>> REPLACE\n"
    assert proposed(reply, vocab_sizes=[256, 2048])[0].replies == 1


def test_a_huge_reply_goes_back_cut():
    _, model, exchanges = proposed(HEADER + "x" * 500_000, GOOD)
    assert len(model.asked[1][-2].content) < 70_000
    assert len(exchanges[0].reply) > 500_000
