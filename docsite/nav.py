"""What the site's navigation shows, in which order."""

from pathlib import Path

Entry = tuple[str, "str | tuple[Entry, ...]"]
"""A title with a page, or with the entries below it."""

NAV: tuple[Entry, ...] = (
    ("Home", "index.md"),
    ("Tutorial", "tutorial.md"),
    (
        "How-to guides",
        (
            ("Bring an adapter", "bring-an-adapter.md"),
            ("Import and export", "adapters.md"),
            ("Bring a full checkpoint", "checkpoints.md"),
            ("Diagnose a run", "diagnose.md"),
            ("Log to trackers", "trackers.md"),
            ("Choose thresholds", "thresholds.md"),
            ("Choose a remedy", "remedies.md"),
            ("Bring a task", "tasks.md"),
            ("Write a reward", "rewards.md"),
            ("Read a report", "report.md"),
            ("Watch it", "observability.md"),
            ("The dashboard", "dashboard.md"),
            ("Get alerts", "alerts.md"),
            ("Follow what happens", "events.md"),
            ("The Python client", "client.md"),
            ("Run on GPUs", "run-on-gpus.md"),
            ("Plan memory and time", "plan.md"),
            ("Check a GPU", "gpu.md"),
            ("Run under compose", "compose.md"),
            ("API keys and TLS", "keys.md"),
        ),
    ),
    (
        "Concepts",
        (
            ("Why policies collapse", "collapse.md"),
            ("Entropy", "entropy.md"),
            ("How detection errs", "detection.md"),
            ("The control loop", "control.md"),
            ("The learning core", "training.md"),
            ("Serving and swapping", "serving.md"),
            ("What survives what", "durability.md"),
            ("Security", "security.md"),
            ("The experiment", "experiment.md"),
        ),
    ),
    (
        "Reference",
        (
            ("Settings", "reference/settings.md"),
            ("Commands", "reference/commands.md"),
            ("HTTP API", "reference/http.md"),
            ("Error codes, and what to do", "reference/errors.md"),
            ("Metrics", "metrics.md"),
            ("Supported policies", "models.md"),
        ),
    ),
    (
        "Notebooks",
        (
            ("Your own policy, and its report", "notebooks/own_policy.md"),
            ("Live entropy", "notebooks/live_entropy.md"),
        ),
    ),
    (
        "About",
        (
            ("Architecture", "architecture.md"),
            ("Comparison", "comparison.md"),
            ("Questions", "faq.md"),
        ),
    ),
)


def pages(entries: tuple[Entry, ...] = NAV) -> list[str]:
    """The pages of the navigation, in its order."""
    found: list[str] = []
    for _, target in entries:
        found += [target] if isinstance(target, str) else pages(target)
    return found


def existing(folder: Path, entries: tuple[Entry, ...] = NAV) -> tuple[Entry, ...]:
    """The navigation without pages that `folder` does not have.

    tests/unit/test_docsite.py finds a page that is missing here, so a wrong name does not go unnoticed.
    """
    kept: list[Entry] = []
    for title, target in entries:
        if not isinstance(target, str):
            kept.append((title, existing(folder, target)))
        elif (folder / target).is_file():
            kept.append((title, target))
    return tuple(kept)
