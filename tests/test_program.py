"""What a human writes becomes a program, or one line says why not."""

import re
from pathlib import Path

import pytest

from autoresearch import knobs, program, trial
from autoresearch.errors import Misuse
from autoresearch.settings import Settings

CORE = Path(__file__).parents[1] / "src" / "autoresearch" / "train_core.py"


def settings(text: str) -> Settings:
    return program.parse("x", f"---\n{text}\n---\nprose").settings


DEFAULTS = {
    "edit": ("train_core.py",),
    "budget": 300.0,
    "max_steps": None,
    "startup_limit": 120.0,
    "corpus": "stdlib",
    "vocab_sizes": (8192,),
    "validation": 64_000_000,
    "audit": 1024,
    "memory_limit": None,
    "min_gain": 0.0005,
    "sigma": 0.0007,
    "seeds": 3,
    "early_stop": True,
    "constants": {},
    "device": "auto",
}


def test_every_key_has_its_default() -> None:
    assert program.parse("x", "---\n---\n").settings.model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("edit: src/model.py", "edit", ("src/model.py",)),
        ("edit: [src/model.py]", "edit", ("src/model.py",)),
        ("edit: ./src//model.py", "edit", ("src/model.py",)),
        ("budget: 90", "budget", 90.0),
        ("budget: 90s", "budget", 90.0),
        ("budget: 5m", "budget", 300.0),
        ("budget: 1h30m", "budget", 5400.0),
        ("budget: 1.5h", "budget", 5400.0),
        ("budget: 1d", "budget", 86400.0),
        ("startup_limit: 30 s", "startup_limit", 30.0),
        ("validation: 200KB", "validation", 200_000),
        ("validation: 1.5 MB", "validation", 1_500_000),
        ("memory_limit: 75GB", "memory_limit", 75_000_000_000),
        ("memory_limit: 1000", "memory_limit", 1000),
        ("vocab_sizes: [256, 8192]", "vocab_sizes", (256, 8192)),
        ("constants: {DEPTH: 2, X: 0.5, P: SL}", "constants", {"DEPTH": 2, "X": 0.5, "P": "SL"}),
        ("min_gain: 0", "min_gain", 0.0),
        ("max_steps: 3", "max_steps", 3),
        ("device: cpu", "device", "cpu"),
    ],
)
def test_a_key_is_read_as_people_write_it(line: str, key: str, value: object) -> None:
    assert getattr(settings(line), key) == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("budgt: 5m", "unknown key 'budgt': did you mean 'budget'?"),
        ("vocabsize: [256]", "did you mean 'vocab_sizes'?"),
        ("mem: 5GB", "unknown key 'mem'"),
        ("zzz: 1", "unknown key 'zzz': known keys are edit, budget,"),
        ("budget: 0", "budget: input should be greater than 0 (it says 0)"),
        ("budget: -5m", "budget: '-5m' is not a duration: write 90s, 5m or 1h30m"),
        ("budget: 5 parsecs", "is not a duration"),
        ("budget: .inf", "is not a duration"),
        ("budget: .nan", "is not a duration"),
        ("budget: true", "is not a duration"),
        ("budget: [5m]", "is not a duration"),
        ("memory_limit: many", "is not a size: write 75GB or 64MB"),
        ("validation: 0", "greater than 0"),
        ("vocab_sizes: []", "vocab_sizes:"),
        ("vocab_sizes: 256", "vocab_sizes:"),
        ("vocab_sizes: [100]", "greater than or equal to 256"),
        ("vocab_sizes: [100000]", "less than or equal to 65536"),
        ("audit: 1", "greater than or equal to 16"),
        ("min_gain: -1", "min_gain:"),
        ("sigma: 0", "sigma:"),
        ("sigma: 1.0e-200", "sigma:"),
        ("device: tpu", "device:"),
        (f"budget: {'9' * 400}", "is not a duration"),
        (f"budget: {'9' * 400}m", "is not a duration"),
        (f"memory_limit: {'9' * 400}", "is not a size"),
        (f"memory_limit: {'9' * 400}GB", "is not a size"),
        ("edit: [a.py, b.py]", "edit names 2 files"),
        ("edit: []", "edit:"),
        ("edit: /etc/passwd", "'/etc/passwd' is outside the repository"),
        ("edit: a/../../b.py", "outside the repository"),
        ("edit: .git/hooks/x.py", "outside the repository"),
        ("edit: ''", "outside the repository"),
        ("edit: .", "outside the repository"),
        ("edit: a/.git/x.py", "outside the repository"),
        ("sigma: .inf", "sigma:"),
        ("min_gain: .nan", "min_gain:"),
        ("constants: {DEPTH: .nan}", "constants:"),
        ("constants: [1]", "constants:"),
        ("constants: {DEPTH: [1]}", "constants:"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(line: str, message: str) -> None:
    with pytest.raises(Misuse) as caught:
        settings(line)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("program x: ")


def test_the_prose_goes_on_verbatim_and_the_digest_is_of_all() -> None:
    text = "---\nbudget: 1m\n---\n\n# Title\n\n---\nA rule --- and `code`.\n"
    made = program.parse("x", text)
    assert made.prose == "# Title\n\n---\nA rule --- and `code`."
    assert made.digest != program.parse("x", text + " ").digest
    assert made.name == "x"


@pytest.mark.parametrize(
    "text", ["", "Just prose.", "budget: 5m\n", "---\nbudget: 5m\n", "---\n- a\n---\n", "---\n1: x\n---\n"]
)
def test_without_front_matter_it_says_how_to_write_one(text: str) -> None:
    with pytest.raises(Misuse, match=r"front matter.*Begin the file with `---`"):
        program.parse("x", text)


@pytest.mark.parametrize("text", ["---\n---\nprose", "\ufeff---\nbudget: 5m\n---\nprose", "---\n# none\n---\nprose"])
def test_front_matter_may_be_empty_or_follow_a_byte_order_mark(text: str) -> None:
    assert program.parse("x", text).settings.budget == 300.0


def test_windows_line_ends_are_read() -> None:
    assert program.parse("x", "---\r\nbudget: 1m\r\n---\r\nprose\r\n").settings.budget == 60.0


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "tiny.md").write_text("---\n---\n")
    with pytest.raises(Misuse, match=r"no program at .*tinny\.md\. Did you mean .*tiny\.md\?"):
        program.load(tmp_path / "tinny.md")
    with pytest.raises(Misuse, match="autoresearch init"):
        program.load(tmp_path / "nowhere" / "x.md")


@pytest.mark.parametrize("path", sorted(program.shipped().glob("*.md")), ids=lambda path: path.name)
def test_the_programs_that_come_along_are_valid(path: Path) -> None:
    made = program.load(path)
    assert len(made.prose) > 1000
    assert made.settings.vocab_sizes and made.settings.budget > 0


@pytest.mark.parametrize("path", sorted(program.shipped().glob("*.md")), ids=lambda path: path.name)
def test_their_constants_are_knobs_of_the_training_file_and_within_its_domains(path: Path) -> None:
    made, source = program.load(path), CORE.read_text()
    known, values = knobs.read(source), knobs.values(trial.with_constants(source, made))
    assert values["VOCAB_SIZE"] in made.settings.vocab_sizes
    assert values["BATCH_ROWS"] % values["MICRO_ROWS"] == 0
    for name, value in made.settings.constants.items():
        assert type(value) is type(known[name].value), name
        domain = known[name].domain
        assert domain is None or not domain.choices or value in domain.choices, name
        assert domain is None or domain.choices or domain.low <= value <= domain.high, name


@pytest.mark.parametrize("path", sorted(program.shipped().glob("*.md")), ids=lambda path: path.name)
def test_the_size_that_a_program_tells_is_the_size_of_its_baseline(path: Path) -> None:
    made, table = program.load(path), (CORE.parents[2] / "docs" / "programs.md").read_text()
    values = knobs.values(trial.with_constants(CORE.read_text(), made))
    channels, head = int(values["DEPTH"]) * int(values["ASPECT"]), int(values["HEAD_DIM"])
    depth, width = values["DEPTH"], -(-channels // head) * head
    told = re.findall(r"depth-(\d+), width-(\d+)", made.prose)
    tabled = re.findall(rf"{path.name}`.* depth (\d+), width (\d+)", table)
    assert told + tabled and {*told, *tabled} == {(str(depth), str(width))}


@pytest.mark.parametrize(("name", "card"), [("default", 80), ("24gb", 24), ("8gb", 8)])
def test_a_program_for_a_card_asks_for_less_than_the_card_has(name: str, card: int) -> None:
    settings = program.load(program.shipped() / f"{name}.md").settings
    assert settings.device == "cuda" and settings.memory_limit and settings.memory_limit < card * 10**9


def test_the_table_of_keys_has_every_key_and_its_default_as_a_person_writes_it() -> None:
    table = program.describe_settings()
    for name, info in Settings.model_fields.items():
        assert f"| `{name}` |" in table and info.description and info.description in table
    for row in (
        "| `budget` | `5m` |",
        "| `validation` | `64MB` |",
        "| `vocab_sizes` | `[8192]` |",
        "| `audit` | `1024` |",
    ):
        assert row in table
