"""Seals the datagrams of an entropy tap, so that the daemon can tell them from forged and repeated ones.

A sealed datagram is an HMAC-SHA256 under the key that tap and daemon share, then the sender's random id, a number that
rises with each of its datagrams, the time at which it was sent, and the content. UDP may deliver a datagram twice or
too late; such a one is dropped like a repeated one, because the next brings the same sums and more.
"""

import hmac
import secrets
import struct
import time

KEY_ENV = "REHEATD_TAP_KEY"
"""The shared key, in the environment of the engine."""
MAX_AGE_S = 300.0
"""Largest difference between the clocks of sender and receiver, transit included, in seconds."""

_MAC_BYTES = 32
_HEADER = struct.Struct(">16sQd")
"""Sender, number and time in seconds since the epoch."""


class UnsealedError(ValueError):
    """A datagram was not sealed with the key, was received before, or is too old."""


class Sealer:
    """Seals what one sender says. It is not thread-safe."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._sender = secrets.token_bytes(16)
        self._number = 0

    def seal(self, content: bytes) -> bytes:
        self._number += 1
        rest = _HEADER.pack(self._sender, self._number, time.time()) + content
        return _mac(self._key, rest) + rest


class Opener:
    """Opens what any number of senders have sealed."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._newest: dict[bytes, tuple[int, float]] = {}
        """Number and time of each sender's newest datagram."""

    def open(self, datagram: bytes) -> bytes:
        """The content of a datagram.

        Raises:
            UnsealedError: It was not sealed with the key, was received before, or is too old.
        """
        rest = datagram[_MAC_BYTES:]
        if len(rest) < _HEADER.size or not hmac.compare_digest(datagram[:_MAC_BYTES], _mac(self._key, rest)):
            raise UnsealedError("it was not sent with this daemon's key")
        sender, number, sent_at = _HEADER.unpack_from(rest)
        now = time.time()
        if abs(now - sent_at) > MAX_AGE_S:
            raise UnsealedError(f"it is {now - sent_at:.0f} s old by this machine's clock")
        if number <= self._newest.get(sender, (0, 0.0))[0]:
            raise UnsealedError("it was received before, or a later one was")
        # What is older is refused for its age, so nobody need be remembered for longer.
        self._newest = {who: last for who, last in self._newest.items() if now - last[1] <= MAX_AGE_S}
        self._newest[sender] = number, now
        return rest[_HEADER.size :]


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")
