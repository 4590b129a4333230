"""What the shell completes from the daemon: versions and ids of jobs; silent if nobody answers soon."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import typer

from cli.client import DaemonClient
from reheatd.errors import ReheatdError

TIMEOUT_S = 0.5
"""Longest wait for a connection, and then for an answer, in seconds; somebody is waiting for the prompt."""

Item = TypeVar("Item")
Completions = list[tuple[str, str]]
"""Words that the shell may insert, each with what it is."""


def complete_version(context: typer.Context, incomplete: str) -> Completions:
    """The versions that there are, the newest first, and `base`."""

    def versions(client: DaemonClient) -> Iterator[tuple[str, str]]:
        for version in reversed(client.adapters().adapters):
            made = "the base model" if version.lineage is None else version.lineage.kind
            yield (version.name if version.version else "base"), f"{version.state}, {made}"

    return _asked(context, incomplete, versions)


def complete_job(context: typer.Context, incomplete: str) -> Completions:
    """The ids of all jobs, the newest first."""

    def jobs(client: DaemonClient) -> Iterator[tuple[str, str]]:
        for job in reversed(client.jobs().jobs):
            yield job.job_id, f"{job.kind}, {job.status.value}"

    return _asked(context, incomplete, jobs)


def _asked(
    context: typer.Context, incomplete: str, words: Callable[[DaemonClient], Iterator[tuple[str, str]]]
) -> Completions:
    try:
        client = DaemonClient(context.params.get("url"), timeout_s=TIMEOUT_S)
        return [(word, about) for word, about in words(client) if word.startswith(incomplete)]
    except ReheatdError:  # whoever presses the tab key has asked for words, not for what is wrong
        return []
