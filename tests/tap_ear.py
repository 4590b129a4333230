"""Hears an engine's entropy tap, in tests and benchmarks."""

import socket
import threading

from reheatd.tap.moments import Moments
from reheatd.tap.seal import Opener
from reheatd.tap.wire import TapTotals
from tests.waiting import wait_until

KEY = "the key of the taps in tests"


class TapEar:
    """Keeps the newest report of each run of sums, until `listener` is closed."""

    def __init__(self, listener: socket.socket) -> None:
        self.reports: dict[str, TapTotals] = {}
        listener.setblocking(True)
        threading.Thread(target=self._hear, args=(listener,), daemon=True).start()

    def sums(self, version: str, source: str = "live") -> Moments:
        found = Moments()
        for report in list(self.reports.values()):
            if (report.version, report.source) == (version, source):
                found += report.moments
        return found

    def sums_of(self, version: str, tokens: int, source: str = "live") -> Moments:
        """Once `tokens` have been reported."""
        wait_until(lambda: self.sums(version, source).tokens >= tokens)
        return self.sums(version, source)

    def _hear(self, listener: socket.socket) -> None:
        opener = Opener(KEY)
        while True:
            try:
                report = TapTotals.decode(opener.open(listener.recv(1 << 16)))
            except OSError:
                return
            self.reports[report.run] = report
