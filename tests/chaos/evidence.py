"""What the data folder of a daemon says about lost adapters and jobs that were run twice to effect."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reheatd.adapters.lineage import Lineage
from reheatd.adapters.store import LINEAGE_FILE, content_digest

FINAL = ("succeeded", "rejected", "failed", "cancelled")


@dataclass
class Evidence:
    """Findings in a data folder; everything is well if all lists are empty."""

    lost: list[str] = field(default_factory=list)
    """Versions that are gone, or whose files are not those that were published."""
    duplicated: list[str] = field(default_factory=list)
    """Jobs that made more than one version, or were promoted more than once."""
    unfinished: list[str] = field(default_factory=list)
    """Jobs that are not over."""
    leftovers: list[str] = field(default_factory=list)
    """Files of an interrupted write, and folders that no record names."""


class Archive:
    """The data folder, read beside the daemon that owns it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._known: dict[int, str] = {}
        """Digests of the versions that were seen so far."""
        self.damaged: set[int] = set()
        """Versions whose files a test damaged or deleted on purpose."""

    def rows(self, query: str, *parameters: Any) -> list[sqlite3.Row]:
        """Rows of the daemon's database, also while the daemon stands still or is dead."""
        path = self.data_dir / "reheatd.sqlite3"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return db.execute(query, parameters).fetchall()

    def state(self) -> str:
        """The state of the control loop, by the journal."""
        rows = self.rows("SELECT to_state FROM journal WHERE event = 'transition' ORDER BY id DESC LIMIT 1")
        return rows[0]["to_state"] if rows else "serving"

    def job(self, job_id: str) -> dict[str, Any]:
        """A job's record."""
        (row,) = self.rows("SELECT record FROM jobs WHERE job_id = ?", job_id)
        return json.loads(row["record"])["job"]

    def promoted(self) -> list[int]:
        """The versions that were promoted, oldest first, with the base's 0 before them."""
        return [0, *(row["version"] for row in self.rows("SELECT version FROM adapter_promotions ORDER BY id"))]

    def inspect(self, *, at_rest: bool = True) -> Evidence:
        """Looks at every version and every job.

        Args:
            at_rest: Whether nothing is being written now, so that leftovers count as well.
        """
        found, adapters = Evidence(), self.data_dir / "adapters"
        made: Counter[str] = Counter()
        folders: dict[int, str] = {}
        for row in self.rows("SELECT version, folder FROM adapter_versions WHERE folder != ''"):
            version, folder = row["version"], adapters / row["folder"]
            folders[version] = row["folder"]
            if version in self.damaged:
                continue
            try:
                lineage = Lineage.model_validate_json((folder / LINEAGE_FILE).read_bytes())
                digest = content_digest(folder)
            except (OSError, ValueError) as error:
                found.lost.append(f"policy-v{version}: {error!r}")
                continue
            if digest != lineage.digest or self._known.setdefault(version, digest) != digest:
                found.lost.append(f"policy-v{version} has other files than were published")
            if lineage.job_id is not None:
                made[lineage.job_id] += 1
        found.lost += [f"policy-v{gone} is gone" for gone in self._known.keys() - folders.keys() - self.damaged]
        found.duplicated += [f"{job_id} made {count} versions" for job_id, count in made.items() if count > 1]
        promoted = Counter(
            row["job_id"]
            for row in self.rows("SELECT job_id FROM journal WHERE event = 'promoted' AND job_id NOT NULL")
        )
        found.duplicated += [f"{job_id} was promoted {n} times" for job_id, n in promoted.items() if n > 1]
        found.unfinished += [
            f"{row['job_id']} is {row['status']}"
            for row in self.rows("SELECT job_id, status FROM jobs")
            if row["status"] not in FINAL
        ]
        if at_rest:
            found.leftovers += [path.name for path in adapters.iterdir() if path.name not in folders.values()]
        return found
