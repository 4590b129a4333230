"""The log of a child process: opened for appending, rotated while the child writes, and searched for a reason."""

import os
import re
import shutil
from pathlib import Path
from typing import BinaryIO

LARGEST = 64 << 20
"""Size in bytes at which a log is rotated. The log before it is kept as `<name>.log.1`."""
LONGEST_LOOK_BACK = 64_000
"""Bytes at the end of a log that are searched for the reason of an end."""
CAUSE = re.compile(r"(?:^|[\s\])])(?:\w+\.)*\w*(?:Error|Exception|Interrupt)(?:: \S|$)(?!.*See root cause above)")
"""The last line of a traceback; not the code that raises the error, which the traceback shows above it."""
COMPLAINT = re.compile(r"\berror: ", re.IGNORECASE)
WARNING = re.compile(r"\bwarn(?:ing)?\b", re.IGNORECASE)


class ChildLog:
    """The log file of one child."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin = 0

    def open(self) -> BinaryIO:
        """Opens the log for a new run of the child; makes file and folder if somebody removed them.

        Raises:
            OSError: The file cannot be opened.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        self._begin = file.tell()
        return file

    def rotate(self) -> None:
        """Moves the content to `<name>.log.1` if the log is large.

        The child goes on writing into the same file, because it appends; what it writes between copying and cutting is
        lost.
        """
        if not self.path.exists() or self.path.stat().st_size < LARGEST:
            return
        shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
        os.truncate(self.path, 0)
        self._begin = 0

    def reason(self) -> str:
        """The line of the present run that most likely says why it ended; empty if there is none.

        That is the last line that ends a traceback, or else the last one that speaks of an error, or else the last one.
        """
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                begin = self._begin if self._begin <= size else 0  # somebody else has cut it
                file.seek(max(begin, size - LONGEST_LOOK_BACK))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        telling = [line for line in reversed(lines) if not WARNING.search(line)]
        for pattern in (CAUSE, COMPLAINT):
            for line in telling:
                if pattern.search(line):
                    return line
        return lines[-1] if lines else ""
