"""What a night's proposals cost: `python benchmarks/night.py [MODEL ...] [--experiments 80] [--output 8000]`.

The prompt is the real one: programs/default.md, the file as it is shipped, and a history that fills its page. How many
characters are a token, and how many tokens a model thinks and writes, differ by model: both are assumptions, to be
replaced by what the ledger shows after a few experiments. Prices are those of genai-prices.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from autoresearch import program
from autoresearch.agent import prices, prompt
from autoresearch.records import FAMILIES, Brief, Experiment, Measurement, Metric, Usage

MODELS = ("anthropic:claude-opus-5-5", "anthropic:claude-haiku-4-5", "openai:gpt-6.1-sol", "openai:gpt-5.1")
ROOT = Path(__file__).parents[1]
PER_TOKEN = 3.5  # characters of English and Python


def main() -> None:
    """Print the prompt's parts and a table of costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL", help="such as openai:gpt-5.1")
    parser.add_argument("--experiments", type=int, default=80, help="in the night")
    parser.add_argument("--keeps", type=int, default=10, help="of them, each of which changes the file")
    parser.add_argument("--output", type=int, default=8000, help="tokens of a reply, thinking included")
    given = parser.parse_args()

    system, user = prompt.build(_brief(given.experiments))
    rules, file, rest = system.stable, user.stable, len(user.content) - user.stable
    print(f"rules and program {rules:,} characters, file {file:,}, history and question {rest:,}: ", end="")
    print(f"{(rules + file + rest) / PER_TOKEN:,.0f} tokens at {PER_TOKEN} characters\n")
    print("| model | a proposal | the night | without a cache |\n|---|---|---|---|")
    for spec in given.models:
        provider, _, model = spec.partition(":")
        price = prices.listed(provider, model)
        if price is None:
            print(f"| `{spec}` | price not known | | |")
            continue
        call = Usage(round((rules + file + rest) / PER_TOKEN), round((rules + file) / PER_TOKEN), 0, given.output)
        kept = replace(call, cached_tokens=round(rules / PER_TOKEN), written_tokens=round(file / PER_TOKEN))
        usual, after = price.cost(call), price.cost(kept)
        night = usual * (given.experiments - given.keeps) + after * given.keeps
        plain = price.cost(replace(call, cached_tokens=0)) * given.experiments
        print(f"| `{spec}` | ${usual:.3f} | ${night:.2f} | ${plain:.2f} |")


def _brief(experiments: int) -> Brief:
    """The last proposal of a night in which every title and hypothesis is as long as a model makes them."""
    chosen = program.load(ROOT / "programs" / "default.md")
    path = chosen.settings.edit[0]
    history = tuple(_experiment(number) for number in range(1, experiments))
    files = {path: (ROOT / "src" / "autoresearch" / "train_core.py").read_text()}
    sigma, hardware = chosen.settings.sigma, "NVIDIA H200, 140 GiB memory"
    return Brief(chosen, Metric(), files, history, experiments, "default", sigma, hardware)


def _experiment(number: int) -> Experiment:
    kept = number % 8 == 1
    measured = Measurement(
        0, "scored", 1.0 - number / 1e4, steps=1300, tokens=348_000_000, parameters=110_000_000,
        peak_memory=34_000_000_000, loss=2.3,
    )  # fmt: skip
    return Experiment(
        number, "default", "done", "kept" if kept else "discarded", title="x" * 60, hypothesis="y" * 200,
        family=FAMILIES[number % len(FAMILIES)], expect=-0.002, value=measured.value, measurements=(measured,),
    )  # fmt: skip


if __name__ == "__main__":
    main()
