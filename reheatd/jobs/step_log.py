"""Files of JSON lines that a job's worker writes while it trains, and that the daemon reads at the same time.

Every line is a row of one step. One worker writes at a time. A resumed job continues the file of the worker that died.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from reheatd.errors import ReheatdError
from reheatd.files import append_whole, write_atomically
from reheatd.measures import Contract


class StepRow(Contract):
    """A row of a step log."""

    step: int


Row = TypeVar("Row", bound=StepRow)


class StepLog(Generic[Row]):
    """The rows in `file`, which need not exist yet; each is a `row`."""

    def __init__(self, file: Path, row: type[Row]) -> None:
        self._file = file
        self._row = row

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows at the end; a reader sees each of them whole.

        Raises:
            ReheatdError: The file cannot be written.
        """
        lines = "".join(row.model_dump_json() + "\n" for row in rows)
        try:
            append_whole(self._file, lines.encode())
        except OSError as error:
            raise self._unwritable(error) from error

    def keep_only(self, wanted: Callable[[Row], bool]) -> None:
        """Removes the other rows, and with them the end of a line at which a worker died.

        Raises:
            ReheatdError: The file cannot be read or written.
        """
        if not self._file.exists():
            return
        kept = [row.model_dump_json() + "\n" for row in self.read() if wanted(row)]
        try:
            write_atomically(self._file, "".join(kept).encode())
        except OSError as error:
            raise self._unwritable(error) from error

    def read(self) -> list[Row]:
        """All whole rows in the order of writing; none if there is no file.

        Raises:
            ReheatdError: The file cannot be read, or a line is no such row.
        """
        return [self.parse(line, number) for number, line in enumerate(self.lines(), start=1)]

    def lines(self) -> list[bytes]:
        """The lines of all whole rows; the first has number 1.

        Raises:
            ReheatdError: The file cannot be read.
        """
        try:
            content = self._file.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ReheatdError(f"{self._file} cannot be read: {error.strerror or error}") from error
        # What follows the last line break is empty, or a line that is being written.
        return content.split(b"\n")[:-1]

    def parse(self, line: bytes, number: int) -> Row:
        """The row in a line.

        Raises:
            ReheatdError: The line is no such row.
        """
        try:
            return self._row.model_validate_json(line)
        except ValidationError as error:
            cause = error.errors()[0]["msg"]
            raise ReheatdError(f"{self._file}, line {number} is damaged ({cause}); delete the line") from error

    def _unwritable(self, error: OSError) -> ReheatdError:
        return ReheatdError(
            f"{self._file} cannot be written: {error.strerror or error}; free or repair the disk that holds data_dir "
            "and run the job again"
        )
