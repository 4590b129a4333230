"""Errors of the command line itself; those of single commands stand beside them."""

from reheatd.errors import ReheatdError


class ReheatdUsage(ReheatdError):
    """The command line cannot be understood.

    What to do: `reheatd --help` lists the commands, and `reheatd COMMAND --help` the options of one.
    """

    code = "usage"
    type = "invalid_request_error"
    exit_code = 2


class UnusableFile(ReheatdError):
    """The system refuses to read or write a file.

    What to do: Check that the path exists and that this user may read or write it, and that its disk has room.
    """

    code = "unusable_file"
