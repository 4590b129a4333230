"""vLLM logits processor that measures the exact entropy of every decoded token's distribution, in the engine.

It changes no logit. It sees each row of a step in fp32 at temperature 1, after grammar masks and logit biases, and
computes the entropy over the full vocabulary. A separate thread sends the sums by version and source to the daemon; see
`reheatd.tap.wire`.

vLLM loads the class by name (`--logits-processors`) in the engine's core process and in the API server's, which makes
no instance. vLLM has two model runners with different interfaces and chooses which one runs, so the class implements
both.
"""

from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.v1.sample.logits_processor.interface import BatchUpdate
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as V1LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2LogitsProcessor

from reheatd.tap.runner_v1 import BatchRows
from reheatd.tap.runner_v2 import SlotRows

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext


class EntropyTap(V1LogitsProcessor, V2LogitsProcessor):
    """The logits processor that vLLM loads.

    Args:
        vllm_config: The engine's configuration.
        runner: The arguments that the model runner passes: the V1 runner a device and whether memory is pinned, the V2
            runner the state of its requests.

    Raises:
        ValueError: The engine uses speculative decoding, whose rows may be drafts that are rejected later.
    """

    def __init__(self, vllm_config: "VllmConfig", *runner: Any) -> None:
        if vllm_config.speculative_config is not None:
            raise ValueError("the entropy tap cannot be loaded beside speculative decoding; leave one of them out")
        self._rows: BatchRows | SlotRows | None = None
        # All ranks of tensor parallelism see the same rows, unless each samples its own.
        if get_tensor_model_parallel_rank() != 0 and not vllm_config.parallel_config.enable_batch_sharded_sampling:
            return
        # The runner is imported here, where vLLM has imported the one that runs, and not in the API server.
        if len(runner) == 1:
            from vllm.v1.worker.gpu.model_runner import GPUModelRunner

            self._rows = SlotRows(GPUModelRunner, *runner)
        else:
            from vllm.v1.worker.gpu_model_runner import GPUModelRunner

            self._rows = BatchRows(GPUModelRunner)

    def is_argmax_invariant(self) -> bool:
        """Returns False, because processors that return True see neither greedy rows nor logits before temperature."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Does nothing, because vLLM tells here of places in the batch, but neither of requests nor of their ends."""

    def add_request(self, req_idx: int, sampling_params: "SamplingParams") -> bool:
        """Whether the runner must show this request's rows."""
        return isinstance(self._rows, SlotRows) and self._rows.counts(sampling_params)

    def apply(self, logits: torch.Tensor, ctx: "LogitsContext | None" = None) -> torch.Tensor:
        if isinstance(self._rows, SlotRows):
            assert ctx is not None
            self._rows.see(logits, ctx)
        elif self._rows is not None:
            self._rows.see(logits)
        return logits
