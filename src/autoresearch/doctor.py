"""What works on this machine, what does not, and the remedy."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from autoresearch import program as programs
from autoresearch import provision, trial
from autoresearch.agent.select import default_agent, keys_set, make_model
from autoresearch.corpus import hub, shards, sources, store
from autoresearch.engine import sandbox
from autoresearch.engine.device import describe_hardware, resolve_device
from autoresearch.engine.gpus import GpuProcess, gpu_processes, visible_gpus
from autoresearch.errors import CorpusError, ModelUnavailable, UserError
from autoresearch.ledger import Ledger
from autoresearch.machine import existing
from autoresearch.records import Program
from autoresearch.report.tables import Finding
from autoresearch.settings import Device
from autoresearch.units import format_duration, format_size
from autoresearch.workspace import Workspace

_SPACE = 2 * 10**9  # bytes kept free beside the corpus: weights of tip and candidate, logs, what is compiled
_PATIENCE = 5.0  # seconds for a provider's answer


def examine(
    folder: Path, program: Path, corpus: str | None, agent: str | None, cache: Path, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Everything a run needs, in the order it needs it. Never raises for what it finds; shows no key. The network is
    asked for nothing but the models of `agent`, or of the keys that are set: seconds, and no money."""
    yield Finding("python", "works", f"{platform.python_version()}, autoresearch on {platform.system()}")
    yield _checked("torch", lambda: importlib.metadata.version("torch"))
    yield _checked("git", _git)
    chosen = _load(program)
    yield chosen if isinstance(chosen, Finding) else _checked("program", lambda: _describe(program, chosen))
    device: Device = "auto" if isinstance(chosen, Finding) else chosen.settings.device
    yield _checked("device", lambda: describe_hardware(resolve_device(device, environ), environ))
    limit = None if isinstance(chosen, Finding) else chosen.settings.memory_limit
    yield from _gpu(limit, environ)
    yield _checked("repository", lambda: _repository(folder, chosen))
    yield _checked("ledger", lambda: _ledger(folder))
    yield from _disks(None if isinstance(chosen, Finding) else chosen, corpus, cache, environ)
    if not isinstance(chosen, Finding):
        yield _checked("corpus", lambda: _corpus(corpus or chosen.settings.corpus, chosen, cache))
    yield from _agents(agent, environ)
    yield from _sandbox(device, environ)


def _checked(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "works", look())
    except UserError as error:
        return Finding(name, "fails", error.message, error.remedy)
    except (OSError, subprocess.SubprocessError, importlib.metadata.PackageNotFoundError) as error:
        return Finding(name, "fails", str(error), f"Install {name}.")


def _load(program: Path) -> Program | Finding:
    try:
        return programs.load(program)
    except UserError as error:
        return Finding("program", "fails", error.message, error.remedy)


def _describe(path: Path, program: Program) -> str:
    settings = program.settings
    return f"{path}: {format_duration(settings.budget)} of training an experiment, on corpus {settings.corpus}"


def _git() -> str:
    done = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def _repository(folder: Path, program: Program | Finding) -> str:
    workspace = Workspace(folder)
    if isinstance(program, Program):
        for path in program.settings.edit:
            trial.with_constants(workspace.read(workspace.head(), path), program)
    return f"{workspace.root}, at commit {workspace.head()[:10]}"


def _ledger(folder: Path) -> str:
    state = Workspace(folder).state
    if not (state / "ledger.db").exists():
        return "none yet: no run has been started here"
    tags = [run.tag for run in Ledger(state).runs()]
    return f"in {state}, with {', '.join(tags) or 'no run'}"


def _gpu(limit: int | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Driver and memory of the GPUs that a run would see, and who is there already."""
    try:
        gpus, processes = visible_gpus(environ), gpu_processes()
    except UserError as error:
        yield Finding("gpu", "warns", error.message, error.remedy)
        return
    if not gpus:
        yield Finding("gpu", "works", "no NVIDIA GPU: nvidia-smi is not here, or shows none")
        return
    for place, gpu in enumerate(gpus):
        found = f"{gpu.name}, driver {gpu.driver}, {_gib(gpu.memory)} memory, {_gib(gpu.free)} free"
        here = [process for process in processes if process.gpu == gpu.uuid]
        if here:
            users = ", ".join(f"{_pid(p)} {Path(p.name).name} {_gib(p.memory)}" for p in here)
            found += f"; in use by {users}"
        narrow = limit is not None and gpu.free is not None and gpu.free < limit
        used_first = place == 0 and (here or narrow)
        yield Finding(
            "gpu" if place == 0 else f"gpu {place}",
            "warns" if used_first else "works",
            found,
            "Who shares a GPU slows experiments down and takes their memory: let it end, or choose another GPU with "
            "CUDA_VISIBLE_DEVICES."
            if used_first
            else "",
        )


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


def _pid(process: GpuProcess) -> str:
    return "a process" if process.pid is None else f"process {process.pid}"


def _disks(program: Program | None, corpus: str | None, cache: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What is free, against what is still to be written: the cache's disk, and that of downloads if it is another."""
    fetched, written = 0.0, float(_SPACE)
    if program is not None:
        fetched, prepared = _to_prepare(corpus or program.settings.corpus, program, cache, environ)
        written += prepared
    there, downloads = existing(cache), existing(hub.cache_folder())
    if downloads.stat().st_dev == there.stat().st_dev:
        written, fetched = written + fetched, 0.0
    yield _space("disk", cache, there, written, "AUTORESEARCH_CACHE")
    if fetched:
        yield _space("downloads", hub.cache_folder(), downloads, fetched, "HF_HOME")


def _space(name: str, folder: Path, there: Path, need: float, variable: str) -> Finding:
    free = shutil.disk_usage(there).free
    found = f"{format_size(free)} free for {folder}, about {format_size(need)} wanted"
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return Finding(name, "fails", f"{there} cannot be written", f"Set {variable} to a folder that can.")
    if free < need:
        return Finding(name, "warns", found, f"Free some, or set {variable} to a folder on a larger disk.")
    return Finding(name, "works", found)


def _to_prepare(spec: str, program: Program, cache: Path, environ: Mapping[str, str]) -> tuple[float, float]:
    """Bytes to fetch, and bytes to write then, for a corpus that is not prepared yet: as `prepare` reckons them, but
    without the network."""
    sizes = program.settings.vocab_sizes
    try:
        store.open(spec, cache)
        return 0.0, 0.0
    except CorpusError:
        pass
    if spec in hub.DATASETS:
        tokens = int(provision.PASSES * provision.tokens_read(program.settings, environ))
        plan = shards.plan(hub.expected(hub.DATASETS[spec]), sizes, tokens, None)
        return plan.download, plan.space.work
    try:
        return 0.0, shards.space(sources.find(spec).text, sizes).work
    except CorpusError:  # which the corpus's own finding says
        return 0.0, 0.0


def _corpus(spec: str, program: Program, cache: Path) -> str:
    corpus = store.open(spec, cache)
    store.verify(corpus)
    for size in program.settings.vocab_sizes:
        corpus.view(size)
    sizes = ", ".join(map(str, sorted(corpus.manifest.vocabularies)))
    return f"{spec}: prepared and intact, vocabularies {sizes}"


def _agents(spec: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether who is to propose can: the one named, or else every provider whose key is set."""
    keys = keys_set(environ)
    if spec is not None:
        yield _agent("agent", spec, environ)
    elif not keys:
        yield Finding("agent", "works", "no key is set: search proposes, which needs none, nor does command:CMD")
    for provider in keys if spec is None else ():
        finding = _agent(provider, provider, environ)
        if finding.state == "works":
            asked = (
                "asked by runs that name no agent" if provider == default_agent(environ) else "not asked unless named"
            )
            finding = replace(finding, found=f"{finding.found}; {asked}")
        elif provider != default_agent(environ):
            finding = replace(finding, state="warns")  # no run needs it
        yield finding


def _agent(name: str, spec: str, environ: Mapping[str, str]) -> Finding:
    try:
        return Finding(name, "works", _ready(spec, environ))
    except ModelUnavailable as error:
        return Finding(name, "warns", error.message, "A run would wait for it and ask again. " + error.remedy)
    except UserError as error:
        return Finding(name, "fails", error.message, error.remedy)


def _ready(spec: str, environ: Mapping[str, str]) -> str:
    """What the agent is; asks its server whether key and model are good."""
    if spec == "search":
        return "search: no model, no key"
    model = make_model(spec, environ, _PATIENCE)
    model.check()
    return model.describe()


def _sandbox(device: Device, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Each protection, attacked for real in a process that is confined as a candidate's."""
    try:
        there = resolve_device(device, environ)
    except UserError:
        there = "cpu"  # that it is not there has been said
    try:
        found = sandbox.examine(environ, there)
    except UserError as error:
        yield Finding("sandbox", "warns", error.message, error.remedy)
        return
    made = f"of {', '.join(found.mechanisms)}" if found.mechanisms else "none"
    yield Finding(
        "sandbox",
        "works" if found.mechanisms and not found.missing else "warns",
        f"{made}; attacked in {len(found.protections)} ways, {len(found.missing)} of which got through",
        "What follows is not protected: run it where you would run a stranger's code." if found.missing else "",
    )
    for one in found.protections:
        remedy = "" if one.works else f"{one.remedy}."
        yield Finding(f"sandbox: {one.name}", "works" if one.works else "warns", one.found, remedy)
