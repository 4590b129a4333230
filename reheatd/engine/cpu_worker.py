"""vLLM worker for the CPU that allows prompts to be prefilled in parts while requests with a seed are running.

vLLM samples from every row of a step, and discards the draw for a prompt that is not complete yet. For a seeded request
it undoes the draw by resetting the offset of the request's random generator. Generators on the CPU have no offset, so
vLLM 0.32 dies. Here, such a row draws from the default generator, and its own generator is left alone.

The engine's core process loads the worker by name (`--worker-cls`).
"""

from typing import Any

import numpy as np
from vllm.v1.worker.cpu_worker import CPUWorker


class SeededCPUWorker(CPUWorker):
    """A CPU worker that samples incomplete rows without their own generators."""

    def sample_tokens(self, grammar_output: Any) -> Any:
        runner = self.model_runner
        generators = runner.input_batch.generators
        incomplete = np.flatnonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs]).tolist()
        set_aside = {row: generators.pop(row) for row in incomplete if row in generators}
        try:
            return super().sample_tokens(grammar_output)
        finally:
            generators.update(set_aside)
