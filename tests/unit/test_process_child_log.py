"""What the log of a dead child gives as the reason."""

from pathlib import Path

import pytest

from reheatd.process.child_log import ChildLog

VLLM_LOG = """
WARNING 11-28 10:00:00 [interface.py:12] Failed to import from vllm._C: ImportError: libcuda.so.1: cannot open
(EngineCore pid=7) ERROR 11-28 10:00:09 [core.py:900] ValueError: No available memory for the cache blocks.
(EngineCore pid=7) Traceback (most recent call last):
(APIServer pid=1)     raise RuntimeError(
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: There appear to be 1 leaked objects
"""


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (
            VLLM_LOG,
            "(EngineCore pid=7) ERROR 11-28 10:00:09 [core.py:900] ValueError: No available memory for the cache",
        ),
        (
            "one\ntorch.OutOfMemoryError: CUDA out of memory\n  raise RuntimeError(\ntwo\n",
            "torch.OutOfMemoryError: CUDA",
        ),
        ("MemoryError\nlast\n", "MemoryError"),
        ("api_server.py: error: argument --port: invalid int value\nlast\n", "api_server.py: error: argument --port"),
        ("one\n\ntwo\n", "two"),
        ("", ""),
    ],
)
def test_the_reason_is_the_last_error_and_no_warning_and_no_code(written: str, reason: str, tmp_path: Path) -> None:
    log = ChildLog(tmp_path / "engine.log")
    with log.open() as file:
        file.write(written.encode())
    assert log.reason().startswith(reason)
    assert bool(log.reason()) == bool(reason)
