"""Runs and experiments as a person reads them: a line each, or one whole."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from autoresearch.history import gain_over_parent
from autoresearch.records import Experiment, Measurement, Metric, Replay
from autoresearch.report.status import Last, Report
from autoresearch.schema import Calls, Recorded
from autoresearch.units import format_duration, format_size

COLOURS = {
    "kept": "green", "discarded": "dim", "crashed": "red", "failed": "yellow", "quarantined": "magenta",
    "stopped": "cyan", "running": "blue",
}  # fmt: skip
PURPOSES = {"first": "measured", "noise": "repeated", "check": "checked", "final": "on the test split"}
_BARS = "▁▂▃▄▅▆▇█"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def value(number: float | None) -> str:
    """A value of the metric, or a dash."""
    return "–" if number is None else f"{number:.4f}"


def harmless(text: str) -> str:
    """Text from elsewhere, with its control characters made visible: none of them reaches a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.expandtabs(4).replace("\r\n", "\n"))


def status_word(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=COLOURS.get(status, ""))


def standing_word(experiment: Experiment | Last) -> Text:
    """Its status; of what was kept and then judged once more, what came of that."""
    if experiment.standing in ("confirmed", "rolled_back"):
        style = "dim" if experiment.standing == "rolled_back" else "bold green"
        return Text(experiment.standing.replace("_", " "), style=style)
    return status_word(experiment.status)


def log_table(experiments: Sequence[Experiment], metric: Metric) -> Table:
    """All experiments, a line each; the gain is against the tip that each was built on."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("#", metric.name, "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("commit", no_wrap=True)
    table.add_column("title", overflow="fold")
    table.add_column("", overflow="fold", style="dim")
    for experiment in experiments:
        gain = gain_over_parent(experiment, experiments, metric)
        table.add_row(
            str(experiment.number), value(experiment.value), "–" if gain is None else f"{gain:+.4f}",
            standing_word(experiment), (experiment.commit or "–")[:7], Text(harmless(experiment.title)),
            Text(_remark(experiment)),
        )  # fmt: skip
    return table


def _remark(experiment: Experiment) -> str:
    """The reason, where the figures do not say it already."""
    reason = harmless(first_line(experiment.reason or ""))
    if experiment.stage != "done":
        return "unfinished: " + experiment.stage
    plain = re.fullmatch(r"(better|worse) by [0-9.]+ \([0-9.]+ sigma\)", reason) or experiment.number == 1
    return "" if plain and experiment.status in ("kept", "discarded") else reason


def tsv(experiments: Iterable[Experiment]) -> str:
    """The columns that notebooks for results.tsv read; a missing number is empty, never 0."""
    rows = ["commit\tval_bpb\tmemory_gb\tstatus\tdescription"]
    for e in experiments:
        memory = e.deciding.peak_memory if e.deciding else None
        status = {"kept": "keep", "discarded": "discard", "crashed": "crash"}.get(e.status, e.status)
        rows.append(
            f"{(e.commit or '')[:7]}\t{'' if e.value is None else format(e.value, '.6f')}\t"
            f"{'' if memory is None else format(memory / 1e9, '.1f')}\t{status}\t{harmless(' '.join(e.title.split()))}"
        )
    return "\n".join(rows) + "\n"


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """An experiment for a program to read: its fields, without the curves."""
    fields = asdict(experiment)
    for measurement in fields["measurements"]:
        del measurement["curve"]
    return fields


def replay_as_dict(replay: Replay) -> dict[str, Any]:
    """A replay for a program to read: recorded and new values, and whether they agree."""
    return {
        "commit": replay.experiment.commit,
        "number": replay.experiment.number,
        "recorded": replay.experiment.value,
        "changes": dict(replay.changes),
        "values": [m.value for m in replay.measurements],
        "outcomes": [m.outcome for m in replay.measurements],
        "reasons": [m.reason for m in replay.measurements],
        "sigma": replay.spread.sigma,
        "agreement": asdict(replay.agreement) if replay.agreement else None,
    }


def replay_table(replay: Replay, metric: Metric) -> RenderableType:
    """Recorded and new values side by side, and whether chance explains their difference."""
    experiment = replay.experiment
    recorded = experiment.deciding
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "seed", metric.name, "steps", "memory", "time"):
        table.add_column(name, justify="left" if not name else "right")
    changed = "  ".join(f"{name}={setting}" for name, setting in replay.changes.items())
    again = [(f"with {changed}" if changed else "again", m) for m in replay.measurements]
    for label, m in [("recorded", recorded), *again]:
        if m:
            found = value(m.value) if m.outcome == "scored" else m.outcome
            steps = "–" if m.steps is None else f"{m.steps:,}"
            time = format_duration(m.seconds.get("total"))
            table.add_row(Text(label), str(m.seed), found, steps, format_size(m.peak_memory), time)
    title = Text(harmless(f"#{experiment.number} {experiment.title}  ({experiment.status})"), style="bold")
    reasons = [Text(harmless(f"{m.outcome}: {m.reason}")) for m in replay.measurements if m.outcome != "scored"]
    return Group(title, table, *reasons, Text(_agreement(replay)))


def _agreement(replay: Replay) -> str:
    found = replay.agreement
    if found is None:
        return "not compared: what was measured differs from what was recorded, or has no score"
    repeats = replay.spread.repeats
    known = f"by {repeats} repeat{'s' * (repeats > 1)}" if repeats else "guessed"
    sigma = f"sigma {replay.spread.sigma:.4f}, {known}"
    verdict = "they agree" if found.agrees else "they do NOT agree"
    return f"difference {found.difference:+.4f}; chance allows ±{found.allowed:.4f} ({sigma}): {verdict}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `doctor` looked at."""

    name: str
    state: Literal["works", "warns", "fails"]
    found: str
    remedy: str = ""


def doctor_table(findings: Iterable[Finding]) -> Table:
    """What works, what does not, and the remedy below it."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    colours = {"works": "green", "warns": "yellow", "fails": "red"}
    for finding in findings:
        text = Text(harmless(finding.found))
        if finding.remedy:
            text.append(f"\n{harmless(finding.remedy)}", style="dim")
        table.add_row(Text(finding.state, style=colours[finding.state]), finding.name, text)
    return table


def gain_line(report: Report) -> str:
    """What the run has gained, with the interval; nothing before that is known."""
    found = report.gain
    if found is None:
        return ""
    error = "" if found.error is None else f" ± {found.error:.4f}"
    sure = found.error is not None and abs(found.value) > found.error
    verdict = "" if found.error is None or sure else ", which may be chance"
    seeds = f"fresh seeds: {found.n[0]} of the baseline, {found.n[1]} of the tip"
    return f"{found.value:+.4f}{error} on the test split{verdict} (95 % interval; {seeds})"


def first_line(text: str) -> str:
    """The first line of a text from elsewhere, harmless."""
    return harmless(text.strip().splitlines()[0]) if text.strip() else ""


def spending(usd: float | None, calls: Calls, most: float | None = None) -> str:
    """Dollars spent on models, of `most` if that is given, and how the calls went; nothing if none was made."""
    parts = []
    if usd is not None or most is not None:
        parts.append(f"${usd or 0.0:.2f}" + ("" if most is None else f" of ${most:.2f}"))
    if calls.unpriced:
        parts.append("price unknown" if usd is None else f"and {calls.unpriced} of unknown price")
    if calls.total:
        failed = f", {calls.failed} failed" if calls.failed else ""
        parts.append(f"({calls.total} call{'s' if calls.total > 1 else ''}{failed})")
    return " ".join(parts)


def status_panel(
    report: Report,
    why: str | None = None,
    calls: Calls | None = None,
    tip: Measurement | None = None,
    now: Text | None = None,
) -> RenderableType:
    """Where the run stands, for a person. tip: the measurement that the tip rests on. now: what is done with the last
    experiment, while it goes."""
    counts = report.experiments
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    verdicts = Text(f"{counts['total']}")
    for status, count in counts.items():
        if status != "total" and count:
            verdicts.append(f"  {count} {status}", style=COLOURS.get(status, ""))
    if report.rolled_back:
        verdicts.append(f"  (of the kept {report.rolled_back} rolled back)", style="dim")
    rows: list[tuple[str, str | Text]] = [
        ("run", Text(f"{report.tag}  ({report.state}, {format_duration(report.elapsed_s)})")),
        ("program", Text(harmless(f"{report.program}, proposals by {report.agent}"))),
        ("device", Text(harmless(report.device))),
        ("branch", Text(report.branch)),
        ("experiments", verdicts),
    ]
    if (early := report.early_stop).spared:
        rows.append(("early stops", f"{early.spared} beyond hope were let finish, {early.spared_kept} of them kept"))
    if report.baseline:
        baseline = f"{report.baseline.value:.4f}  (sigma {report.baseline.sigma:.4f})"
        rows.append(("baseline", f"{report.metric['name']} {baseline}"))
    if report.best:
        best = report.best
        standing = f", {best.standing}" if best.standing else ""
        rows.append(
            ("best", f"{report.metric['name']} {best.value:.4f}  (#{best.number}, {best.commit[:7]}{standing})")
        )
    if line := gain_line(report):
        rows.append(("gain", line))
    if tip and (warning := repetition(tip)):
        rows.append(("corpus", warning))
    if report.gpu_busy is not None:
        rows.append(("device busy", f"{report.gpu_busy:.0%} of the time since the baseline"))
    if spent := spending(report.cost["llm_usd"], calls or Calls()):
        rows.append(("model", spent))
    if report.last:
        last = report.last
        word = status_word("unfinished" if last.status == "running" and report.state != "running" else last.status)
        word = standing_word(last) if last.standing else word
        rows.append(("last", Text.assemble(f"#{last.number} ", word, f"  {harmless(last.title)}")))
    if now and report.state == "running":
        rows.append(("now", now))
    if why and report.state != "running":
        rows.append(("stopped", Text(harmless(why))))
    for name, content in rows:
        grid.add_row(name, content)
    return grid


def show(
    experiment: Experiment, recorded: Sequence[Recorded], diff: str, metric: Metric, folder: str
) -> RenderableType:
    """One experiment whole: what was proposed, what was measured, the verdict, the diff."""
    head = Text.assemble(
        (f"#{experiment.number} ", "bold"), (harmless(experiment.title) or "(no title yet)", "bold"), "  ",
        status_word(experiment.status), f"  {(experiment.standing or '').replace('_', ' ')}",
    )  # fmt: skip
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    rows: list[tuple[str, str | None]] = [
        ("verdict", experiment.reason),
        ("hypothesis", experiment.hypothesis),
        ("family", experiment.family),
        ("expected", None if experiment.expect is None else f"{experiment.expect:+g}"),
        ("commit", experiment.commit),
        ("parent", experiment.parent),
        ("replies", str(experiment.replies)),
        ("files", folder),
    ]
    for name, content in rows:
        if content:
            grid.add_row(name, Text(harmless(content)))
    parts: list[RenderableType] = [head, grid]
    parts += [measurement_panel(record, metric) for record in recorded]
    if diff:
        parts += ["", Syntax(harmless(diff), "diff", theme="ansi_dark", word_wrap=True, background_color="default")]
    return Group(*parts)


def measurement_panel(record: Recorded, metric: Metric) -> RenderableType:
    """One measurement, under a line that says what it was for."""
    m = record.measurement
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, content in measurement_rows(m, metric):
        grid.add_row(name, Text(harmless(content)))
    changed = "  ".join(f"{name}={setting}" for name, setting in (record.changes or {}).items())
    purpose = f"{PURPOSES.get(m.purpose, m.purpose)} {changed}"
    return Group("", Text(purpose.strip(), style="bold"), grid)


def measurement_rows(m: Measurement, metric: Metric) -> list[tuple[str, str]]:
    """What is known of a measurement, by name; what is unknown is left out."""
    phases = "  ".join(f"{name} {format_duration(s)}" for name, s in m.seconds.items())
    throughput = m.tokens / m.seconds["train"] if m.tokens and m.seconds.get("train") else None
    rows = [
        (metric.name, value(m.value) if m.outcome == "scored" else f"{m.outcome} in {m.phase or '?'}: {m.reason}"),
        ("seed", str(m.seed)),
        ("time", phases),
        ("trained", f"{m.steps} steps, {m.tokens:,} tokens{_over_the_corpus(m)}" if m.tokens else ""),
        ("corpus", repetition(m)),
        ("throughput", f"{throughput:,.0f} tokens/s" + (f", MFU {m.mfu:.1%}" if m.mfu else "") if throughput else ""),
        ("model", f"{_parameters(m)}, peak memory {format_size(m.peak_memory)}" if m.parameters else ""),
        ("loss", sparkline([point.loss for point in m.curve])),
        ("beyond hope", f"{m.condemned}; let finish to see" if m.condemned and m.outcome != "stopped" else ""),
        ("done again", "; ".join(m.interruptions)),
        ("device", f"{m.device_name}, torch {m.torch_version}" if m.device_name else ""),
        ("sandbox", m.sandbox or ""),
        ("traceback", m.traceback or ""),
    ]
    if m.audit:
        rows.insert(
            1,
            ("audit", f"claim {value(m.claim)}, proved at {m.audit.positions} positions: "
             f"{m.audit.mean:+.1e} ± {m.audit.error:.1e} nats, largest {m.audit.largest:+.1e}"),
        )  # fmt: skip
    return [(name, content) for name, content in rows if content]


def _parameters(m: Measurement) -> str:
    """All of a model's, and those that one token uses: tables are large and nearly free in time."""
    active = f", {_many(m.active_parameters)} active" if m.active_parameters else ""
    return f"{_many(m.parameters or 0)} parameters{active}"


def _many(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def _over_the_corpus(m: Measurement) -> str:
    return "" if m.passes is None else f", {m.passes:.2g} passes over the corpus"


def repetition(m: Measurement) -> str:
    """A warning in one line, with the remedy, if training went over the corpus more than once; else nothing."""
    if m.passes is None or m.passes <= 1:
        return ""
    enough = format(int(float(f"{1.2 * (m.tokens or 0):.2g}")), "_")
    return (
        f"warning: training passed {m.passes:.1f} times over the corpus. N-gram tables memorize what is repeated, and "
        "training losses flatter what memorizes: such figures say little about fresh text. Prepare more (`autoresearch "
        f"prepare --tokens {enough}`, or a larger corpus) or shorten the budget, and start another run."
    )


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve in one line of block characters, with its first and last value; what is not finite is left out."""
    values = [v for v in values if math.isfinite(v)]
    if len(values) < 2:
        return ""
    picked = [
        values[round(i * (len(values) - 1) / (min(width, len(values)) - 1))] for i in range(min(width, len(values)))
    ]
    low, high = min(picked), max(picked)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    bars = "".join(_BARS[round((v - low) * scale)] for v in picked)
    return f"{values[0]:.3f} {bars} {values[-1]:.3f}"
