"""Which headers pass the gateway."""

from collections.abc import Mapping

HOP_BY_HOP = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    )
)  # fmt: skip
"""Headers that belong to one connection (RFC 9110, section 7.6.1)."""
OF_THE_CLIENT = frozenset(
    (
        "host",
        "content-length",
        "content-encoding",
        "accept-encoding",
        "cookie",
        "authorization",
        "x-api-key",
        "api-key",
        "x-data-parallel-rank",
    )
)
"""Headers of a request that are not the engine's business: keys and cookies are for this server, and clients do not
choose a part of the engine."""
OF_THE_ENGINE = frozenset(("content-length", "date", "server", "set-cookie"))
"""Headers of an answer that this server writes itself, or that only the engine's own clients should get."""


def end_to_end(headers: Mapping[str, str], besides: frozenset[str]) -> dict[str, str]:
    """The headers without those of one connection, of which `connection` may name more, and without `besides`."""
    named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    left_out = HOP_BY_HOP | besides | named
    return {key: value for key, value in headers.items() if key.lower() not in left_out}
