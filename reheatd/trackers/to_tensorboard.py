"""The tracker `tensorboard`: event files in `FOLDER/tensorboard/POLICY/JOB`, which TensorBoard shows as runs.

The package's own writer is used, and its messages where it has no function that works without TensorFlow.
"""

# The package's messages have no types.
# pyright: reportAttributeAccessIssue=false

import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text import metadata as text_plugin
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from reheatd.trackers.tracker import Outcome, Point, RunInfo, TrackerSetup, Value

PNG_SIZE = struct.Struct(">II")
PNG_SIZE_AT = 16
"""Where a PNG file says its width and height."""
RGBA = 4


class TensorboardTracker:
    """Writes event files."""

    keeps = True

    def __init__(self, setup: TrackerSetup) -> None:
        self._folder = setup.folder / "tensorboard"

    def begin(self, info: RunInfo) -> "TensorboardRun":
        return TensorboardRun(self._folder / info.policy / info.job_id, info)


class TensorboardRun:
    """One folder of event files; each process that goes on with the run adds a file."""

    def __init__(self, folder: Path, info: RunInfo) -> None:
        is_new = not any(folder.glob("events.out.tfevents.*"))
        self._writer = EventFileWriter(str(folder))
        if is_new:
            start = SessionStartInfo(start_time_secs=info.created_at)
            for name, value in info.config.items():
                _set(start, name, value)
            self._add(0, _hparams(hparams.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)))
            self._add(0, _text("config", _table(info.config)))
            self._writer.flush()

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in point.metrics.items()]
            self._add(point.step, *values)
        self._writer.flush()

    def finish(self, outcome: Outcome) -> None:
        for name, value in outcome.summary.items():
            if isinstance(value, int | float):
                self._add(outcome.step, Summary.Value(tag=name, simple_value=value))
        self._add(outcome.step, _text("job", _table(outcome.summary)))
        if outcome.report is not None:
            self._add(outcome.step, _text("report", (outcome.report / "report.md").read_text()))
            for plot in sorted(outcome.report.glob("*.png")):
                self._add(outcome.step, _image(f"report/{plot.stem}", plot.read_bytes()))
        status = api_pb2.STATUS_FAILURE if outcome.is_failure else api_pb2.STATUS_SUCCESS
        end = SessionEndInfo(status=status, end_time_secs=outcome.finished_at)
        self._add(outcome.step, _hparams(hparams.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)))
        self._writer.close()

    def pause(self) -> None:
        self._writer.close()

    def _add(self, step: int, *values: Summary.Value) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


def _set(start: SessionStartInfo, name: str, value: Value) -> None:
    field = start.hparams[name]
    if isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, str):
        field.string_value = value
    else:
        field.number_value = value


def _hparams(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=hparams.create_summary_metadata(data), tensor=hparams.NULL_TENSOR)


def _text(tag: str, text: str) -> Summary.Value:
    """A text, which TensorBoard reads as Markdown."""
    metadata: SummaryMetadata = text_plugin.create_summary_metadata(display_name=None, description=None)
    return Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto([text.encode()]))


def _table(values: Mapping[str, Value]) -> str:
    rows = (
        f"| {name} | {str(value).replace('|', '&#124;').replace(chr(10), '<br>')} |" for name, value in values.items()
    )
    return "\n".join(["| name | value |", "| --- | --- |", *rows])


def _image(tag: str, png: bytes) -> Summary.Value:
    width, height = PNG_SIZE.unpack_from(png, PNG_SIZE_AT)
    image = Summary.Image(width=width, height=height, colorspace=RGBA, encoded_image_string=png)
    return Summary.Value(tag=tag, image=image)
