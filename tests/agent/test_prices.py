"""What tokens cost: the list, and what a user says."""

import warnings

import pytest

from autoresearch.agent import prices
from autoresearch.agent.prices import GivenPrice, ListPrice, given, listed
from autoresearch.errors import Misuse
from autoresearch.records import Usage

CLAUDE, GPT = listed("anthropic", "claude-sonnet-4-6"), listed("openai", "gpt-5.1")


@pytest.mark.parametrize(
    ("price", "usage", "usd"),
    [
        # $3 in, $15 out, $0.30 from the cache, $6 and $3.75 into it for an hour and for five minutes.
        (CLAUDE, Usage(input_tokens=1_000_000), 3.0),
        (CLAUDE, Usage(output_tokens=1_000_000), 15.0),
        (CLAUDE, Usage(100_000, 90_000, 0, 0), 0.03 + 0.027),
        (CLAUDE, Usage(100_000, 0, 90_000, 0), 0.03 + 0.54),
        (CLAUDE, Usage(100_000, 0, 90_000, 0, written_5m_tokens=90_000), 0.03 + 0.3375),
        (CLAUDE, Usage(100_000, 0, 90_000, 0, written_5m_tokens=40_000), 0.03 + 0.15 + 0.30),
        (CLAUDE, Usage(30_000, 20_000, 5_000, 2_000), 0.015 + 0.006 + 0.03 + 0.03),
        # $1.25 in, $10 out, $0.125 from the cache; what is written to it costs no more.
        (GPT, Usage(100_000, 80_000, 0, 1_000), 0.025 + 0.01 + 0.01),
        (GPT, Usage(100_000, 0, 80_000, 1_000), 0.125 + 0.01),
        # Beyond 272,000 tokens of prompt all of it costs twice as much, and the reply half as much again.
        (listed("openai", "gpt-5.4"), Usage(200_000, 0, 0, 1_000), 0.5 + 0.015),
        (listed("openai", "gpt-5.4"), Usage(300_000, 0, 0, 1_000), 1.5 + 0.0225),
    ],
)
def test_the_list_has_tiers_and_caches(price, usage, usd):
    assert price.cost(usage) == pytest.approx(usd)


@pytest.mark.parametrize("price", [CLAUDE, GPT, GivenPrice(3, 15, 0.3)])
@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(10, 20, 30, 5, written_5m_tokens=40),
        Usage(None, 5, 5, None),
        Usage(10**9, 10**9, 10**9, 10**9),
    ],
)
def test_no_usage_breaks_it(price, usage):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 <= price.cost(usage) < 1e9


@pytest.mark.parametrize(
    ("provider", "model"),
    [("anthropic", "claude-none"), ("openai", "llama3.1:8b"), ("openai", ""), ("nobody", "gpt-5.1")],
)
def test_what_is_not_on_the_list_is_not_known(provider, model):
    assert listed(provider, model) is None


@pytest.mark.parametrize("model", ["whisper-1", "moderation", "gpt-live-1"])
def test_what_is_not_priced_by_tokens_is_not_free(model):
    assert listed("openai", model) is None


def test_the_api_says_whose_price_it_is():
    routed = listed("openai", "anthropic/claude-sonnet-4.6", "https://openrouter.ai/api/v1")
    assert routed == ListPrice("openrouter", "anthropic/claude-sonnet-4.6")
    assert listed("openai", "gpt-5.1", "https://gateway.example.org/v1") == GPT
    assert listed("openai", "gpt-5.1", "https://api.groq.com/openai/v1") is None


def test_a_price_in_words():
    assert prices.describe(CLAUDE) == "$3 in and $15 out per million tokens"
    assert prices.describe(GivenPrice(0.125, 0, 0)) == "$0.125 in and $0 out per million tokens"


def test_a_given_price():
    assert given("3,15,0.3").cost(Usage(1_000_000, 500_000, 100_000, 100_000)) == pytest.approx(1.5 + 0.15 + 1.5)
    assert given("3,15").cost(Usage(1_000_000, 500_000)) == 3.0
    assert given("0,0").cost(Usage(5, 5, 5, 5)) == 0.0


@pytest.mark.parametrize("text", ["", "3", "3,x", "1,2,3,4", "-1,2", "nan,1", "1,inf"])
def test_what_is_no_price_is_misuse(text):
    with pytest.raises(Misuse, match="is not a price") as error:
        given(text)
    assert "--price 3,15" in error.value.remedy
