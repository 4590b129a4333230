"""`reheatd reheat`: raise the served policy's entropy with TS-OPSD."""

import math
from enum import StrEnum
from typing import Annotated

import typer

from cli.client import DaemonClient
from cli.jobs import submit
from cli.options import DEFAULT_URL, JsonOption, SeedOption, UrlOption, WaitOption
from reheatd.errors import BadInputError


class Teacher(StrEnum):
    FROZEN = "frozen"
    LIVE = "live"


class Divergence(StrEnum):
    FORWARD_KL = "forward_kl"
    REVERSE_KL = "reverse_kl"
    JSD = "jsd"


def reheat(
    tau: Annotated[
        float | None,
        typer.Option(
            help="Teacher temperature; above 1 reheats (up to reheat.ceiling_ratio unless a target is given), below 1 "
            "cools; default: from the target."
        ),
    ] = None,
    target_ratio: Annotated[
        float | None, typer.Option(help="Entropy to stop at, as a share of the baseline; default: reheat.target_ratio.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Most optimiser steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam learning rate.")] = None,
    teacher: Annotated[Teacher | None, typer.Option(help="Frozen policy, or the student itself.")] = None,
    divergence: Annotated[Divergence | None, typer.Option(help="Between teacher and student.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Re-temper only tokens with p >= min_p * max p; keep the tail.")
    ] = None,
    seed: SeedOption = 0,
    wait: WaitOption = False,
    url: UrlOption = DEFAULT_URL,
    json_output: JsonOption = False,
) -> None:
    """Reheat the served policy: train a new version towards softer logits and swap it in if the gates pass."""
    for name, value in (
        ("--tau", tau),
        ("--target-ratio", target_ratio),
        ("--steps", steps),
        ("--learning-rate", learning_rate),
        ("--min-p", min_p),
    ):
        require_positive(name, value)
    request = {
        "kind": "reheat",
        "tau": tau,
        "target_ratio": target_ratio,
        "steps": steps,
        "learning_rate": learning_rate,
        "teacher": teacher and teacher.value,
        "divergence": divergence and divergence.value,
        "min_p": min_p,
        "seed": seed,
    }
    submit(DaemonClient(url), request, wait=wait, json_output=json_output)


def require_positive(option: str, value: float | None) -> None:
    """Raises:
    BadInputError: The value is not a finite number above 0.
    """
    if value is not None and not (math.isfinite(value) and value > 0):
        raise BadInputError(f"{option} must be a finite number above 0, got {value}", param=option)
