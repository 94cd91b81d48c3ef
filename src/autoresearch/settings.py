"""The front matter of a program: every setting, its default and its meaning, in this one place."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from autoresearch.units import parse_duration, parse_size

Device = Literal["auto", "cpu", "cuda", "mps"]
Seconds = Annotated[float, BeforeValidator(parse_duration)]
Bytes = Annotated[int, BeforeValidator(parse_size)]


class Settings(BaseModel):
    """The front matter of a program: every key, its default and its meaning, in this one place."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    edit: Annotated[
        tuple[str, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
        AfterValidator(lambda paths: tuple(str(PurePosixPath(path)) if path.strip() else path for path in paths)),
        Field(min_length=1, description="the only file a patch may touch, relative to the repository's root"),
    ] = ("train_core.py",)
    budget: Annotated[Seconds, Field(gt=0, description="training time of one experiment, on the harness's clock")] = (
        300.0
    )
    max_steps: Annotated[
        int | None,
        Field(gt=0, description="end after this many batches even if time is left; for exact repeats and tests"),
    ] = None
    startup_limit: Annotated[
        Seconds,
        Field(gt=0, description="import, compilation and warm-up: outside the budget, but bounded"),
    ] = 120.0
    corpus: Annotated[
        str, Field(min_length=1, description="climbmix, tinystories, stdlib, or a folder of text or parquet files")
    ] = "stdlib"
    vocab_sizes: Annotated[
        tuple[Annotated[int, Field(ge=256, le=65536)], ...],
        Field(min_length=1, description="what VOCAB_SIZE may be; 256 means bytes"),
    ] = (8192,)
    validation: Annotated[
        Bytes, Field(gt=0, description="how much of the validation split, in bytes of text, a score is taken over")
    ] = 64_000_000
    audit: Annotated[
        int, Field(ge=16, description="positions of a claimed score that a second process must reproduce")
    ] = 1024
    memory_limit: Annotated[
        Bytes | None, Field(gt=0, description="peak memory to stay under; above it, a change must gain twice min_gain")
    ] = None
    min_gain: Annotated[
        float, Field(ge=0, description="the smallest improvement worth keeping, in units of the metric")
    ] = 0.0005
    sigma: Annotated[
        float, Field(ge=1e-9, description="expected run-to-run standard deviation, used until it has been measured")
    ] = 0.0007
    seeds: Annotated[
        int,
        Field(
            ge=1,
            description="trainings, each with a fresh seed, of the baseline as a run begins and of the tip as it ends, "
            "by which its gain is reported; 1: none but the experiments themselves",
        ),
    ] = 3
    early_stop: Annotated[
        bool, Field(description="end a training whose live curve is far behind that of the best file so far")
    ] = True
    constants: Annotated[
        Mapping[str, bool | int | float | str],
        Field(description="constants the baseline is given, such as `{DEPTH: 2}`; the commit says so"),
    ] = {}
    device: Annotated[Device, Field(description="auto takes the GPU where there is one")] = "auto"
