"""Options that several commands have, and long ones."""

from pathlib import Path
from typing import Annotated, Literal

import typer

DEFAULT = Path("programs/default.md")
ProgramOption = Annotated[Path, typer.Option("--program", "-p", help="The Markdown file that says what to research.")]
CorpusOption = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        help="climbmix, tinystories, stdlib, or a folder of text or parquet files; overrides the program's.",
    ),
]
TagOption = Annotated[str | None, typer.Option("--tag", "-t", help="Which run; the one worked on last if not given.")]
NewTagOption = Annotated[
    str | None, typer.Option("--tag", "-t", help="Name of the run, and of its branch; the program's name if not given.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
AgentOption = Annotated[
    str | None,
    typer.Option(
        "--agent",
        "-a",
        help="Who proposes: search (no LLM), anthropic[:MODEL], openai[:MODEL], command:CMD (prompt on stdin, reply "
        "on stdout), replay:FILE. Not given: who did before, or else whom a key that is set chooses.",
    ),
]
PriceOption = Annotated[
    str | None,
    typer.Option(
        "--price",
        help="What the model costs, IN,OUT or IN,OUT,CACHED in dollars per million tokens, in place of the list price.",
    ),
]
NotifyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--notify",
        help="A webhook's address: gets JSON at each keep, at the end, and when a person is needed.",
        envvar="AUTORESEARCH_NOTIFY",
    ),
]
SandboxOption = Annotated[
    Literal["auto", "strict", "off"],
    typer.Option(
        "--sandbox",
        help="What the code that is trained may reach: auto, as little as this machine can see to; strict, not to run "
        "where a protection is missing; off, all that you can.",
    ),
]
