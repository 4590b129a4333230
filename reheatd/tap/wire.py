"""What the engine's tap tells the daemon: one datagram for each version and source, with sums since the tap began.

Datagrams carry sums rather than increments. So nothing is missing after a datagram is lost, or sent while the daemon
restarts, once the next one arrives. `reheatd.tap.seal` says how the daemon knows whom they come from.
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
"""Keys of `vllm_xargs` in a request, from which a logits processor learns where a row belongs."""
ADDRESS_ENV = "REHEATD_TAP_ADDRESS"
"""host:port that the tap sends to."""


@dataclass(frozen=True)
class TapTotals:
    """What one datagram says."""

    run: str
    """Random id, drawn when these sums began at 0. Sums with another id do not continue them."""
    version: str
    source: str
    moments: Moments

    def encode(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, datagram: bytes) -> "TapTotals":
        """The totals in a datagram.

        Raises:
            ValueError: The datagram does not hold the totals of a tap.
        """
        try:
            fields = json.loads(datagram)
            moments = Moments(**fields.pop("moments"))
            totals = cls(moments=moments, **fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not the totals of a tap: {error}") from error
        if len(moments.position_tokens) != BUCKETS or len(moments.position_entropy) != BUCKETS:
            raise ValueError(f"not the totals of a tap: it does not have {BUCKETS} positions")
        return totals


def tags(version: str, source: TapSource) -> dict[str, str]:
    """The `vllm_xargs` of a request, which tell the tap the version and the source."""
    return {VERSION_ARG: version, SOURCE_ARG: source}


def read_tags(args: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """The version and the source that `tags` put into a request's arguments; None for a request without them."""
    if args is None or VERSION_ARG not in args:
        return None
    return str(args[VERSION_ARG]), str(args.get(SOURCE_ARG, "live"))
