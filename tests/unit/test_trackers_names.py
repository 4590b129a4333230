"""The names that trackers get: those of the docs, of every metric, and of TRL where they say so."""

import importlib.util
import re
from pathlib import Path

import pytest

from reheatd.trackers.metric_names import OUTCOMES, TRACKED_METRICS, tracked_name

DOCS = Path(__file__).parents[2] / "docs"
OF_TRANSFORMERS = {"loss", "grad_norm"}
"""Metrics that transformers' trainer logs for TRL's."""


def cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def table(text: str, header: str) -> list[list[str]]:
    """The rows of the table with this header."""
    lines = text[text.index(header) :].splitlines()[2:]
    return [cells(line) for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]]


def test_the_docs_have_the_names_of_the_code() -> None:
    text = (DOCS / "trackers.md").read_text()
    assert table(text, "| curves | tracker | TRL | verl |") == [
        [entry.ours, entry.tracked, entry.trl or "", entry.verl or ""] for entry in TRACKED_METRICS
    ]
    rows = [line for line in text[text.index("| outcome |") :].splitlines() if line.startswith("| `job/")]
    assert rows == [f"| `job/{name}` | {meaning} |" for name, meaning in OUTCOMES.items()]


def test_every_metric_of_the_docs_has_a_name() -> None:
    """So does every metric that docs/training.md explains."""
    names = {entry.ours for entry in TRACKED_METRICS}
    text = (DOCS / "training.md").read_text()
    explained: set[str] = set()
    for part in text.split("| metric | what to look for |\n")[1:]:
        for line in part.splitlines()[1:]:
            if not line.startswith("|"):
                break
            found = re.findall(r"`(\w+)`", line.split("|")[1])
            stem = found[0].rpartition("_")[0]  # `verifier_timeouts`, `_crashes`, `_failures`
            explained |= {stem + name if name.startswith("_") else name for name in found}
    assert len(explained) > 20
    assert explained <= names


def test_names_of_trl_are_those_of_the_installed_trl() -> None:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "trainer" / "grpo_trainer.py").read_text()
    for entry in TRACKED_METRICS:
        if entry.trl is not None:
            name = entry.trl.removeprefix("train/")
            logged = f'"{name.replace("NAME", "{reward_func_name}")}"'
            assert name in OF_TRANSFORMERS or logged in source, name


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("reward", "train/reward"),
        ("reward_my_rewards:polite", "train/rewards/my_rewards:polite/mean"),
        ("pass_at_16", "eval/pass_at_16"),
        ("entropy", "train/entropy"),
        ("entropy_sampled", "train/entropy_sampled"),
        ("quite_new", "train/quite_new"),
    ],
)
def test_names(metric: str, name: str) -> None:
    assert tracked_name(metric) == name
