"""Reserves TCP ports for servers that are about to be started."""

import atexit
import socket


def reserve_port(host: str = "127.0.0.1") -> int:
    """Reserves a port until this process ends; a server that is told its number can still listen on it.

    A port that is merely free now may be taken when an engine binds it half a minute later, because the kernel gives it
    to any outgoing connection, even to the one that asks whether the engine is up. A bound socket that does not listen
    prevents that. Servers set SO_REUSEADDR, so they may bind beside it.
    """
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, 0))
    atexit.register(holder.close)  # which keeps it until then, too
    return holder.getsockname()[1]
