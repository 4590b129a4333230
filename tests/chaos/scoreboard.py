"""The table of the faults that were injected, and the figures that end it."""

import io
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from bench.figures import Report


@dataclass
class Row:
    """What one fault did."""

    fault: str
    injected: int = 0
    """How often it was injected."""
    sent: int = 0
    failed: int = 0
    unavoidable: int = 0
    """Failed requests that the fault makes unavoidable."""
    recovered_s: float | None = None
    """Seconds from the first injection until service and job were where they should be; None if they never were."""
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)

    @property
    def unexplained(self) -> int:
        return self.failed - self.unavoidable


class Scoreboard:
    """Collects a row per fault."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def table(self) -> str:
        table = Table("fault", title="faults, each under load", title_justify="left")
        for heading in ("injected", "sent", "failed", "unavoidable", "recovered"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            seconds = "never" if row.recovered_s is None else f"{row.recovered_s:.1f} s"
            counts = map(str, (row.injected, row.sent, row.failed, row.unavoidable))
            table.add_row(row.fault, *counts, seconds)
        text = io.StringIO()
        Console(file=text, width=120).print(table)
        return text.getvalue()

    def report(self) -> None:
        """Prints the figures, and writes them with the rows into a JSON file."""
        report = Report("chaos")
        report.result("faults", len(self.rows))
        report.result("faults_not_recovered", sum(row.recovered_s is None for row in self.rows))
        report.result("requests_sent", sum(row.sent for row in self.rows))
        report.result("requests_failed_unavoidably", sum(row.unavoidable for row in self.rows))
        report.result("adapters_lost", sum(len(row.lost) for row in self.rows))
        report.result("jobs_duplicated", sum(len(row.duplicated) for row in self.rows))
        report.result("unexplained_failures", sum(row.unexplained for row in self.rows))
        report.write(rows=[vars(row) for row in self.rows])
