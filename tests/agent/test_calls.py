"""A model is asked until it answers; every call is noted, and none is made past the budget or the deadline."""

import time

import pytest

from autoresearch import steady
from autoresearch.agent.calls import LEAST_REPLY, Caller, Terms
from autoresearch.agent.models import Completion, Interrupted
from autoresearch.agent.prices import GivenPrice
from autoresearch.errors import AgentError, DeadlinePassed, LimitReached, ModelUnavailable
from autoresearch.records import Message, Usage
from tests.agent.scripted import Desk, Script

MESSAGES = (Message("system", "Rules."), Message("user", "Propose."))
GONE = ModelUnavailable("Overloaded.")


class Slept(list):
    """Waits as they were asked for, at once over."""

    def __call__(self, seconds):
        self.append(seconds)


def asked(*replies, terms=None, until=None, price=None, spent=0.0):
    model, desk, slept = Script(*replies, price=price), Desk(spent), Slept()
    completion = Caller(model, desk, terms, slept).ask(MESSAGES, until)
    return completion, model, desk, slept


def test_an_answer_at_once():
    completion, model, desk, slept = asked("yes", until=9e9)
    assert completion.text == "yes" and slept == [] and desk.waits == []
    (exchange,) = desk.exchanges
    assert (exchange.model, exchange.messages, exchange.reply, exchange.error) == ("script", MESSAGES, "yes", None)
    assert exchange.usage.input_tokens == 10 and exchange.seconds >= 0
    assert model.bounds == [(9e9, None)]


def test_it_is_asked_again_after_waits_that_double_up_to_the_longest_and_never_given_up():
    completion, model, desk, slept = asked(*[GONE] * 14, "yes", terms=Terms(longest_wait=600.0))
    assert completion.text == "yes" and len(model.asked) == 15
    assert slept[0] == pytest.approx(600 / 512) and slept[1] == 2 * slept[0]
    assert slept[9:] == [600.0] * 5 and slept == sorted(slept)
    assert [exchange.error for exchange in desk.exchanges] == ["Overloaded."] * 14 + [None]
    assert len(desk.waits) == 28 and desk.waits[0].reason == "Overloaded." and desk.waits[1] is None


def test_the_server_may_ask_for_a_longer_wait_but_not_for_a_shorter_one():
    patient, hasty = ModelUnavailable("429.", retry_after=4000.0), ModelUnavailable("429.", retry_after=0.0)
    _, _, desk, slept = asked(patient, hasty, "yes", terms=Terms(longest_wait=512.0))
    assert slept == [4000.0, 2.0]
    assert desk.waits[0].until == pytest.approx(time.time() + 4000, abs=60)


def test_a_broken_reply_is_charged_and_asked_for_again():
    broken = Completion("half a re", Usage(input_tokens=50_000), "broken", "The connection was cut.")
    completion, _, desk, slept = asked(broken, "yes", price=GivenPrice(10, 0, 0))
    assert completion.text == "yes" and len(slept) == 1
    assert (desk.exchanges[0].reply, desk.exchanges[0].error) == ("half a re", "The connection was cut.")
    assert desk.exchanges[0].usage == Usage(input_tokens=50_000, usd=0.5)


def test_dollars_are_those_of_the_price_given_or_else_of_the_list_or_else_not_known():
    taken = Completion("a", Usage(input_tokens=1_000_000))
    given = Terms(price=GivenPrice(3, 0, 0))
    for price, terms, usd in [(None, None, None), (PRICE, None, 10), (None, given, 3), (PRICE, given, 3)]:
        assert asked(taken, price=price, terms=terms)[2].exchanges[0].usage.usd == usd
    assert asked(Completion("a", Usage()), price=PRICE)[2].exchanges[0].usage.usd is None


@pytest.mark.parametrize("ended", ["whole", "cut", "refused"])
def test_any_other_end_is_an_answer(ended):
    completion, _, desk, slept = asked(Completion("text", Usage(), ended))
    assert completion.ended == ended and slept == [] and desk.exchanges[0].error is None


def test_what_cannot_get_better_is_not_asked_again():
    with pytest.raises(AgentError, match="wrong key"):
        asked(AgentError("A wrong key."), "yes")


def test_no_wait_reaches_past_the_deadline():
    model, desk, slept = Script(GONE, GONE, GONE, "too late"), Desk(), Slept()
    until = steady.now() + 100.0
    caller = Caller(model, desk, Terms(longest_wait=51200.0), slept)  # the first wait is 100 s
    with pytest.raises(DeadlinePassed, match="Overloaded"):
        caller.ask(MESSAGES, until)
    assert slept == [] and len(model.asked) == 1 and len(desk.exchanges) == 1


def test_an_interrupted_wait_is_over_for_those_who_look_on():
    def interrupt(seconds):
        raise KeyboardInterrupt

    desk = Desk()
    with pytest.raises(KeyboardInterrupt):
        Caller(Script(GONE), desk, sleep=interrupt).ask(MESSAGES)
    assert desk.waits[-1] is None


PRICE = GivenPrice(input=10.0, output=100.0, cached=1.0)  # dollars per million tokens


def test_a_call_that_could_pass_the_budget_is_not_made():
    least = LEAST_REPLY * 100 / 1e6
    with pytest.raises(LimitReached, match=r"\$0\.80 of \$1\.00 are spent, and one more call may cost \$0\.40"):
        asked("no", price=PRICE, terms=Terms(max_cost=1.0), spent=0.8)
    completion, model, _, _ = asked("yes", price=PRICE, terms=Terms(max_cost=1.0), spent=1.0 - least - 0.01)
    assert completion.text == "yes"
    (bounds,) = model.bounds
    assert LEAST_REPLY <= bounds[1] <= LEAST_REPLY + 100  # what the rest of the budget pays for


def test_the_worst_reply_that_there_is_room_for_stays_within_the_budget():
    _, model, _, _ = asked("yes", price=PRICE, terms=Terms(max_cost=3.0), spent=0.5)
    room = model.bounds[0][1]
    prompt = sum(len(message.content) for message in MESSAGES) // 2  # half a token a character: more than any text has
    worst = PRICE.cost(Usage(input_tokens=prompt, output_tokens=room))
    assert 2.4 < worst <= 2.5


def test_failed_calls_are_charged_too():
    broken = Completion("half", Usage(output_tokens=9_000), "broken", "Cut.")
    with pytest.raises(LimitReached):
        asked(broken, "never", price=PRICE, terms=Terms(max_cost=1.0))


def test_an_interrupted_call_is_charged_for_what_had_come_and_else_not():
    begun = Completion("half", Usage(), "broken", "interrupted", estimate=Usage(input_tokens=100_000))
    for stop, spent in [(Interrupted(begun), [1.0]), (KeyboardInterrupt(), [])]:
        desk = Desk()
        with pytest.raises(KeyboardInterrupt):
            Caller(Script(stop, price=PRICE), desk).ask(MESSAGES)
        assert [exchange.usage.usd for exchange in desk.exchanges] == spent
        assert [exchange.error for exchange in desk.exchanges] == ["interrupted"] * len(spent)


def test_what_is_not_counted_is_estimated_where_it_has_a_price():
    silent = Completion("a", Usage(output_tokens=7), estimate=Usage(input_tokens=100_000, output_tokens=7))
    (priced,) = asked(silent, price=GivenPrice(10, 0, 0))[2].exchanges
    assert priced.usage == Usage(input_tokens=100_000, output_tokens=7, usd=1.0)
    (unpriced,) = asked(silent)[2].exchanges
    assert unpriced.usage == Usage(output_tokens=7)


def test_a_reply_that_the_deadline_breaks_off_is_charged_and_the_reason_is_said():
    late = Completion("half", Usage(output_tokens=9_000), "late", "the run's time is up before its model had answered")
    model, desk = Script(late, price=PRICE), Desk()
    with pytest.raises(DeadlinePassed) as error:
        Caller(model, desk).ask(MESSAGES, until=time.time() + 1000)
    assert error.value.message == desk.exchanges[0].error == late.reason
    assert desk.spent() == pytest.approx(0.9) and desk.waits == []


def test_without_a_budget_or_a_cost_there_is_no_bound():
    assert asked("yes", price=PRICE)[1].bounds == [(None, None)]
    assert asked("yes", price=GivenPrice(0, 0, 0), terms=Terms(max_cost=0.0))[1].bounds == [(None, None)]
