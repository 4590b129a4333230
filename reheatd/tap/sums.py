"""The sums that an engine's entropy tap has counted, and the thread that sends them; see `reheatd.tap.wire`."""

import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field

from reheatd.tap.moments import Moments
from reheatd.tap.seal import KEY_ENV, Sealer
from reheatd.tap.wire import ADDRESS_ENV, TapTotals

logger = logging.getLogger(__name__)

Key = tuple[str, str]
"""Version and source."""

SEND_EVERY_S = 1.0
REPEAT_S = 30.0
"""Time after which all sums are sent again, in seconds, in case the daemon was away."""
FORGET_S = 600.0
"""Time without a request after which the sums of a version are dropped, in seconds; they then begin again at 0."""


@dataclass
class _Sums:
    """The sums of one version and source."""

    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    moments: Moments = field(default_factory=Moments)
    changed_at: float = 0.0


class TapSums:
    """Sums by version and source. Those that changed are sent once a second, sealed with the key in the environment."""

    def __init__(self) -> None:
        host, _, port = os.environ[ADDRESS_ENV].rpartition(":")
        self._lock = threading.Lock()
        self._daemon = host, int(port)
        self._sealer = Sealer(os.environ[KEY_ENV])
        self._sums: dict[Key, _Sums] = {}
        threading.Thread(target=self._ship, name="entropy tap", daemon=True).start()

    def add(self, key: Key, entropies: list[float]) -> None:
        """Counts a sequence, given the entropy of each of its tokens in nats."""
        with self._lock:
            sums = self._sums.setdefault(key, _Sums())
            sums.moments.add(entropies)
            sums.changed_at = time.monotonic()

    def _ship(self) -> None:
        sent_at = repeated_at = 0.0
        failed = False
        while True:
            time.sleep(SEND_EVERY_S)
            now = time.monotonic()
            with self._lock:
                for key in [key for key, sums in self._sums.items() if now - sums.changed_at > FORGET_S]:
                    del self._sums[key]
                if now - repeated_at > REPEAT_S:
                    sent_at, repeated_at = 0.0, now
                datagrams = [
                    TapTotals(sums.run, *key, moments=sums.moments).encode()
                    for key, sums in self._sums.items()
                    if sums.changed_at > sent_at
                ]
                sent_at = now
            if not datagrams:
                continue
            failed_before = failed
            try:
                self._send(datagrams)
            except OSError as error:
                # While there is no daemon, its name may not resolve. Counting goes on, and the sums are sent again.
                failed = True
                if not failed_before:
                    logger.warning("entropy tap: %s:%d cannot be reached; trying again: %s", *self._daemon, error)
            else:
                failed = False

    def _send(self, datagrams: list[bytes]) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(*self._daemon, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sender:
            for datagram in datagrams:
                sender.sendto(self._sealer.seal(datagram), address)
