"""The commands: parse, wire, print, exit code. The only reader of the process's environment."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from autoresearch import __version__, arguments
from autoresearch.interrupts import listen
from autoresearch.machine import cache_folder
from autoresearch.options import (
    DEFAULT,
    AgentOption,
    CorpusOption,
    JsonOption,
    NewTagOption,
    NotifyOption,
    PriceOption,
    ProgramOption,
    SandboxOption,
    TagOption,
)
from autoresearch.report.printing import put
from autoresearch.units import format_duration, format_size

if TYPE_CHECKING:
    from autoresearch.engine.begun import Begun
    from autoresearch.lab import Lab
    from autoresearch.records import Program

app = typer.Typer(
    name="autoresearch",
    help="Research that runs itself: an agent proposes a change to one training file, it is trained for a few minutes, "
    "scored, and kept or reverted in git; and so on, all night.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Begin with: autoresearch init lab; cd lab; autoresearch prepare; autoresearch run",
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    # GitPython looks for git as it is imported: without one it is to say so when a command needs it.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    if version:
        print(f"autoresearch {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")] = Path("lab")) -> None:
    """Make a lab: a git repository with the file to train and programs to start from."""
    from autoresearch.lab import create

    create(folder)
    print(f"{folder} is a lab: a git repository with train_core.py and programs/.")
    print(f"Next: cd {folder} && autoresearch prepare && autoresearch run")
    print("Without a GPU: add --program programs/tiny.md to both.")
    print("A model proposes if ANTHROPIC_API_KEY or OPENAI_API_KEY is set, and else a search.")
    print("Whether keys, disk and GPU will do: autoresearch doctor")


@app.command()
def prepare(
    program: ProgramOption = DEFAULT,
    corpus: CorpusOption = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            help="Fetch enough for so many tokens to train on, and not for 1.2 passes of the program's budget on the "
            "GPU that is here.",
            min=0,
        ),
    ] = None,
) -> None:
    """Fetch or read a corpus, train its tokenizers and write token files. Interrupted, it goes on where it was."""
    from autoresearch import program as programs
    from autoresearch import provision
    from autoresearch.corpus import hub
    from autoresearch.corpus import prepare as preparing
    from autoresearch.report.bars import bars

    settings = programs.load(program).settings
    read = provision.tokens_read(settings, os.environ)
    began = time.monotonic()
    console = Console(stderr=True, highlight=False)
    with bars(console) as progress:
        prepared = preparing.prepare(
            corpus or settings.corpus,
            settings.vocab_sizes,
            cache_folder(os.environ),
            progress,
            tokens=int(provision.PASSES * read) if tokens is None else tokens,
            endpoint=os.environ.get("HF_ENDPOINT") or hub.ENDPOINT,
            tell=partial(console.print, markup=False, soft_wrap=True),
        )
    splits = prepared.manifest.splits
    size = format_size(sum(split.bytes for split in splits.values()))
    documents = sum(split.documents for split in splits.values())
    print(f"{prepared.name}: {documents:,} documents, {size} of text, in {format_duration(time.monotonic() - began)}.")
    for vocab_size in settings.vocab_sizes:
        view = prepared.view(vocab_size)
        print(
            f"vocabulary {vocab_size}: {view.train.tokens:,} tokens to train on, {view.validation.tokens:,} to score."
        )
        if view.train.tokens < read:
            print(f"note: an experiment reads about {read:,} tokens: these {read / view.train.tokens:.1f} times over.")
    print(f"It lies in {prepared.root}.")


@app.command()
def run(
    program: ProgramOption = DEFAULT,
    hours: Annotated[float | None, typer.Option("--hours", help="A hard deadline, from now.", min=0.0)] = None,
    experiments: Annotated[
        int | None,
        typer.Option(
            "--experiments", "-n", help="Stop when the run has this many in all, its baseline included.", min=1
        ),
    ] = None,
    agent: AgentOption = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", help="US dollars that the run may spend on the model, in all.", min=0)
    ] = None,
    price: PriceOption = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Measure each keep once more at once, and not only every 20 experiments."),
    ] = False,
    notify: NotifyOption = None,
    tag: NewTagOption = None,
    corpus: CorpusOption = None,
    sandbox: SandboxOption = "auto",
) -> None:
    """Run experiments until a limit or Ctrl-C. The same command again goes on where it stopped."""
    begun = _begin()
    from autoresearch import steady, wiring
    from autoresearch.lab import open_lab
    from autoresearch.limits import Limits
    from autoresearch.report import tables
    from autoresearch.report.notify import Notifier
    from autoresearch.report.status import report
    from autoresearch.report.watch import ConsoleWatcher, console
    from autoresearch.stages import Watchers

    chosen, text = _program(program)
    tag = tag or chosen.name
    lab = open_lab(Path.cwd(), cache_folder(os.environ), os.environ)
    deadline = None if hours is None else steady.now() + hours * 3600
    out = console()
    shown = ConsoleWatcher(out, lab.ledger, tag, deadline, max_cost)
    notifier = Notifier(notify or (), lab.ledger, tag, shown.say)
    with lab.lock(tag), notifier, shown:
        watcher = Watchers(shown, notifier)
        spec, because = (agent, "") if agent is not None else wiring.proposer(lab, tag)
        terms = arguments.terms(max_cost, price, os.environ)
        engine = wiring.engine(lab, tag, chosen.settings.device, sandbox, begun)
        asked = wiring.agent(lab, spec, tag, watcher, terms)
        loop = wiring.loop(lab, chosen, text, tag, watcher, asked, engine, corpus, strict)
        shown.say(f"run {tag} on {loop.run.device}, branch {loop.run.branch}; proposals by {loop.agent.name}{because}")
        limits = Limits(deadline, experiments)
        for note in filter(None, (engine.sandbox.note(), wiring.outdated(lab, loop.run), loop.in_a_hurry(limits))):
            shown.say(f"note: {note}")
        for path in filter(lab.workspace.uncommitted, chosen.settings.edit):
            start = "starts from the commit" if lab.ledger.tip(tag) is None else "goes on from its own commits"
            shown.say(f"note: {path} has edits that are not committed; a run {start}")
        why = loop.until(limits)
        notifier.end(why)
    shown.say(f"stopped: {why}")
    tip, place = lab.ledger.tip(tag), lab.workspace.checked_out(tag)
    if place and tip and lab.workspace.branch(tag) != tip.commit:
        shown.say(f"note: {loop.run.branch} is checked out in {place}, and so is moved by the next start alone")
    put(tables.log_table(lab.ledger.experiments(tag), loop.run.metric), out)
    if line := tables.gain_line(report(lab.ledger, loop.run, alive=False)):
        out.print(f"gain {line}", soft_wrap=True)


@app.command("try")
def try_(
    program: ProgramOption = DEFAULT,
    title: Annotated[str, typer.Option("--title", "-m", help="What the change is, in a line.")] = "",
    patch: Annotated[
        Path | None,
        typer.Option("--patch", help="SEARCH/REPLACE blocks or a diff, for the tip; - reads standard input."),
    ] = None,
    tag: NewTagOption = None,
    corpus: CorpusOption = None,
    sandbox: SandboxOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Run one experiment: your edit in the working tree, or a patch. Your working tree is not touched."""
    begun = _begin()
    from autoresearch import wiring
    from autoresearch.agent.given import GivenAgent
    from autoresearch.lab import open_lab
    from autoresearch.report import tables
    from autoresearch.report.watch import ConsoleWatcher, console
    from autoresearch.trying import check, from_patch, from_tree

    chosen, text = _program(program)
    tag = tag or chosen.name
    lab = open_lab(Path.cwd(), cache_folder(os.environ), os.environ)
    given = from_patch(arguments.patch(patch), title) if patch else from_tree(lab.workspace, lab.ledger, tag, title)
    out = Console(stderr=True, highlight=False) if as_json else console()
    with lab.lock(tag), ConsoleWatcher(out, lab.ledger, tag) as watcher:
        check(given, lab.workspace, lab.ledger.tip(tag), chosen)
        engine = wiring.engine(lab, tag, chosen.settings.device, sandbox, begun)
        if note := engine.sandbox.note():
            watcher.say(f"note: {note}")
        loop = wiring.loop(lab, chosen, text, tag, watcher, GivenAgent(given), engine, corpus)
        tried = loop.once()
    if as_json:
        _print_json(tables.as_dict(tried))
    elif tried.status == "kept":
        edited = "" if patch else f"git restore {' '.join(chosen.settings.edit)} && "
        there = loop.run.branch if lab.workspace.branch(tag) == tried.commit else tried.commit
        print(f"kept on {there}. To have it here: {edited}git merge {there}")
    if tried.status not in ("kept", "discarded"):  # it has no score
        raise typer.Exit(1)


@app.command()
def status(
    tag: TagOption = None,
    as_json: JsonOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Draw it anew until the run ends or Ctrl-C; on a terminal only.")
    ] = False,
) -> None:
    """Where a run stands. Answers while it is going, too."""
    lab = _open()
    from autoresearch.report.live import doing
    from autoresearch.report.status import report, stopped
    from autoresearch.report.tables import status_panel

    run = lab.run(tag)
    if watch:
        from autoresearch.report.watch import console, follow

        follow(console(), lab.ledger, run.tag, partial(lab.alive, run.tag))
    found = report(lab.ledger, run, lab.alive(run.tag))
    if as_json:
        _print_json(found.as_dict())
    else:
        tip = lab.ledger.tip(run.tag)
        why, calls = stopped(lab.ledger, run), lab.ledger.calls(run.tag)
        put(status_panel(found, why, calls, tip.deciding if tip else None, doing(lab.ledger, run)))


@app.command()
def log(
    tag: TagOption = None,
    as_json: JsonOption = False,
    as_tsv: Annotated[bool, typer.Option("--tsv", help="Print the columns of results.tsv.")] = False,
) -> None:
    """All experiments of a run, a line each."""
    lab = _open()
    from autoresearch.report import tables

    run = lab.run(tag)
    experiments = lab.ledger.experiments(run.tag)
    if as_json:
        _print_json([tables.as_dict(experiment) for experiment in experiments])
    elif as_tsv:
        print(tables.tsv(experiments), end="")
    else:
        put(tables.log_table(experiments, run.metric))


@app.command()
def show(
    experiment: Annotated[str, typer.Argument(help="Its number, or a commit.")],
    tag: TagOption = None,
    as_json: JsonOption = False,
) -> None:
    """One experiment whole: hypothesis, verdict, measurements, curve and diff."""
    lab = _open()
    from autoresearch.replay import find
    from autoresearch.report import tables

    found = find(experiment, tag, lab.workspace, lab.ledger)
    if as_json:
        _print_json(tables.as_dict(found))
        return
    diff = lab.workspace.diff(found.parent, found.commit) if found.parent and found.commit else ""
    recorded = lab.ledger.recorded(found.tag, found.number)
    folder = str(lab.ledger.folder_of(found.tag, found.number))
    put(tables.show(found, recorded, diff, lab.run(found.tag).metric, folder))


@app.command()
def replay(
    experiment: Annotated[str, typer.Argument(help="A recorded commit, or an experiment's number.", metavar="COMMIT")],
    seeds: Annotated[int, typer.Option("--seeds", help="How often, each time with a fresh seed.", min=1)] = 1,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Set a constant, such as DEPTH=24: does it transfer?")
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Another training time, such as 10m.")] = None,
    tag: TagOption = None,
    sandbox: SandboxOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train and score a recorded commit again, kept or not, and compare."""
    begun = _begin()
    lab = _open()
    from autoresearch import wiring
    from autoresearch.program import program_of
    from autoresearch.replay import find
    from autoresearch.report import tables
    from autoresearch.report.watch import ConsoleWatcher, console

    found = find(experiment, tag, lab.workspace, lab.ledger)
    seconds = arguments.budget(budget) if budget else None
    out = Console(stderr=True, highlight=False) if as_json else console()
    shown = ConsoleWatcher(out, lab.ledger, found.tag, publish=False)
    run = lab.run(found.tag)
    with lab.replaying(found.tag), shown as watcher:
        engine = wiring.engine(lab, run.tag, program_of(run).settings.device, sandbox, begun, replays=True)
        if note := engine.sandbox.note():
            watcher.say(f"note: {note}")
        replayer = wiring.replayer(lab, run, watcher, engine)
        result = replayer.replay(found, seeds, arguments.changes(changes or []), seconds)
    if as_json:
        _print_json(tables.replay_as_dict(result))
    else:
        put(tables.replay_table(result, replayer.repeater.run.metric), out)
    if any(m.outcome != "scored" for m in result.measurements):
        raise typer.Exit(1)


@app.command()
def doctor(
    program: ProgramOption = DEFAULT,
    corpus: CorpusOption = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", "-a", help="Check this agent, and not all whose key is set."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What works on this machine, what does not, and the remedy. Asks providers about their models, at no cost."""
    from autoresearch.doctor import examine
    from autoresearch.report.tables import doctor_table

    findings = list(examine(Path.cwd(), program, corpus, agent, cache_folder(os.environ), os.environ))
    if as_json:
        _print_json([{"name": f.name, "state": f.state, "found": f.found, "remedy": f.remedy} for f in findings])
    else:
        put(doctor_table(findings))
    if any(finding.state == "fails" for finding in findings):
        raise typer.Exit(1)


# ---------------------------------------------------------------------------------------------- helpers


def _open() -> "Lab":
    from autoresearch.lab import open_lab

    return open_lab(Path.cwd(), cache_folder(os.environ), os.environ, create=False)


def _begin() -> "Begun":
    """What a command that measures does first, so that torch is imported while all else is. From here on SIGTERM is
    Ctrl-C, and a lost terminal (SIGHUP) ends nothing."""
    listen(signal.SIGTERM)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from autoresearch.engine.begun import Begun

    return Begun(os.environ)


def _program(path: Path) -> "tuple[Program, str]":
    from autoresearch import program as programs

    loaded = programs.load(path)
    return loaded, path.read_text(encoding="utf-8")


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
