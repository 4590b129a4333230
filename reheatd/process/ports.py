"""TCP ports for servers that are started in a moment."""

import socket

_reserved: list[socket.socket] = []


def reserve_port(host: str = "127.0.0.1") -> int:
    """A port that belongs to this process until it ends: only a server that is told the number can listen there.

    A port that is merely free now can be gone when an engine binds it, half a minute later: the kernel gives it to any
    outgoing connection, even to the one that asks whether the engine is up. A bound socket that does not listen
    prevents that, and servers, which set SO_REUSEADDR, may bind beside it.
    """
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, 0))
    _reserved.append(holder)
    return holder.getsockname()[1]
