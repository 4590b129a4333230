"""vLLM worker for the CPU: prompts may be prefilled in parts while requests with a seed are there.

vLLM samples from every row of a step and discards what it drew for a prompt that is not complete yet. For a seeded
request it takes the draw back by the offset of the request's random generator, which generators on the CPU do not
have: vLLM 0.32 dies. Here such a row draws from the default generator, and its own is left alone.

Loaded by name (`--worker-cls`) in the engine's core process.
"""

from typing import Any

import numpy as np
from vllm.v1.worker.cpu_worker import CPUWorker


class SeededCPUWorker(CPUWorker):
    def sample_tokens(self, grammar_output: Any) -> Any:
        runner = self.model_runner
        generators = runner.input_batch.generators
        incomplete = np.flatnonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs]).tolist()
        set_aside = {row: generators.pop(row) for row in incomplete if row in generators}
        try:
            return super().sample_tokens(grammar_output)
        finally:
            generators.update(set_aside)
