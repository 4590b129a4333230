"""Reads TensorBoard's event files with TensorBoard's own reader."""

from pathlib import Path

from reheatd.extras import require_diagnose_extra
from reheatd.runlog.log import RunLog


def read_tensorboard(source: Path) -> RunLog:
    """Reads the scalars of an event file, or of all event files in a folder, which TensorBoard takes for one run.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    require_diagnose_extra("tensorboard", f"reading {source}")
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    # 0 keeps every value; of what is not read, such as images, one is kept.
    sizes = {"images": 1, "audio": 1, "histograms": 1, "compressedHistograms": 1}
    events = EventAccumulator(str(source), size_guidance={**sizes, SCALARS: 0, TENSORS: 0})
    events.Reload()
    tags = events.Tags()
    metrics = {tag: {event.step: float(event.value) for event in events.Scalars(tag)} for tag in tags[SCALARS]}
    # TensorFlow 2 writes scalars as tensors without axes.
    for tag in tags[TENSORS]:
        arrays = {event.step: make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}
        if all(array.ndim == 0 and array.dtype.kind in "fiu" for array in arrays.values()):
            metrics[tag] = {step: float(array) for step, array in arrays.items()}
    return RunLog(source, "TensorBoard", {tag: dict(sorted(values.items())) for tag, values in metrics.items()})
