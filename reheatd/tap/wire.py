"""What the engine's tap tells the daemon: one datagram for each version and source, with sums since the tap began.

Sums, not increments: a datagram that is lost, or sent while the daemon restarts, costs nothing, the next one makes up
for it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from reheatd.tap.moments import BUCKETS, Moments

TapSource = Literal["live", "probe", "rollout"]
"""Who asked: clients, the daemon's own monitoring, a training job."""

VERSION_ARG = "reheatd_version"
SOURCE_ARG = "reheatd_source"
"""Keys of `vllm_xargs` in a request: a logits processor is told nothing else of where a row belongs."""
ADDRESS_ENV = "REHEATD_TAP_ADDRESS"
"""host:port that the tap sends to."""


@dataclass(frozen=True)
class TapTotals:
    run: str
    """Drawn when these sums began, at 0; those of another run are no continuation."""
    version: str
    source: str
    moments: Moments

    def encode(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, datagram: bytes) -> "TapTotals":
        """Raises ValueError: These are no totals of a tap."""
        try:
            fields = json.loads(datagram)
            moments = Moments(**fields.pop("moments"))
            totals = cls(moments=moments, **fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no totals of a tap: {error}") from error
        if len(moments.position_tokens) != BUCKETS or len(moments.position_entropy) != BUCKETS:
            raise ValueError("no totals of a tap: another number of positions")
        return totals


def tags(version: str, source: TapSource) -> dict[str, str]:
    """The `vllm_xargs` of a request."""
    return {VERSION_ARG: version, SOURCE_ARG: source}


def read_tags(args: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Version and source that `tags` put into a request's arguments; None for a request that nobody tagged."""
    if args is None or VERSION_ARG not in args:
        return None
    return str(args[VERSION_ARG]), str(args.get(SOURCE_ARG, "live"))
