"""The command line's client of the daemon."""

from typing import ClassVar

from reheatd.client import Client


class DaemonClient(Client):
    """A client whose messages name the option that says where the daemon is."""

    named_by: ClassVar[str] = "--url"
