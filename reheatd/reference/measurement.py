"""Measures the reference's entropy, and asks it the held-out problems, on an engine that runs only for that."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reheatd.config import Settings
from reheatd.engine.client import EngineClient
from reheatd.engine.credentials import EngineCredentials
from reheatd.engine.launch import Device, engine_command
from reheatd.entropy.answer_length import AnswerLength
from reheatd.entropy.detector import CollapseDetector
from reheatd.entropy.meter import EntropyMeter, Sampler
from reheatd.entropy.monitor import EntropyMonitor
from reheatd.entropy.series import EntropySeries
from reheatd.errors import MissingExtraError
from reheatd.extras import require_engine_extra
from reheatd.names import BASE_MODEL_NAME
from reheatd.plan.gpu_plan import EngineGpus
from reheatd.process.instance import url_of
from reheatd.process.ports import reserve_port
from reheatd.process.supervisor import Command, Supervisor
from reheatd.reference.answers import ReferenceAnswers
from reheatd.reference.files import PARAM
from reheatd.reference.questions import Questions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceMeasurement:
    """The measurement that makes the reference's entropy the baseline of a series, and keeps its answers."""

    settings: Settings
    device: Device
    gpus: EngineGpus | None
    """What the reference's engine gets, which the policy's first engine gets later; None on a CPU."""
    reference: Path
    """Folder of the reference's files."""
    policy: Path
    """Folder of the policy's files, whose tokenizer and chat template the reference gets: the prompts must be equal."""
    series: EntropySeries
    meter_of: Callable[[Sampler], EntropyMeter]
    """Makes the meter of the series for a client."""
    answer_length: AnswerLength
    """Finds the longest answer to a probe; the reference's answers decide it for the whole series."""
    questions: Questions
    """What the reference is asked."""

    @property
    def is_known(self) -> bool:
        """Whether an earlier run has measured all of it."""
        stored = ReferenceAnswers.read(self.settings.reference_answers_file)
        return self.series.baseline() is not None and stored is not None and stored.key == self.questions.key()

    async def run(self, supervisor: Supervisor) -> None:
        """Starts the engine, measures, stores the baseline in the series and the answers in their file, and stops it.

        The policy's engines must not run yet, because memory may hold only one model.

        Raises:
            ChildError, EngineError: The engine did not start, or could not be sampled; what was missing is not stored.
            BadInputError: The reference's entropy on the probes is 0.
        """
        logger.info("measuring the entropy of the reference on an engine of its own")
        host = self.settings.engine.host
        port = reserve_port(host)
        # This engine is always one of the daemon's own, whatever the policy's engines are.
        credentials = EngineCredentials.random()
        made = engine_command(self.settings, self.reference, port, self.device, credentials=credentials, gpus=self.gpus)
        argv = [*made.argv, "--tokenizer", str(self.policy)]
        child = await supervisor.start(Command("reference-engine", argv, made.env))
        try:
            await child.ready_when(self._measure(url_of(host, port), credentials.api_key))
        finally:
            await child.stop()

    async def _measure(self, url: str, api_key: str) -> None:
        section = self.settings.entropy
        async with EngineClient(url, api_key=api_key) as client:
            await client.wait_ready(self.settings.engine.startup_timeout_s)
            # Seen by itself, the reference is a base model that is its own baseline, and its engine serves it as such.
            monitor = EntropyMonitor(
                self.meter_of(client),
                self.series,
                CollapseDetector(section),
                section,
                lambda: (0, BASE_MODEL_NAME),
                lambda _: "base",
                lambda _: False,
                answer_length=self.answer_length,
            )
            await monitor.ensure_baseline()
            answers = await self.questions.ask(client)
        await asyncio.to_thread(answers.write, self.settings.reference_answers_file)


def check_engine_for_reference(device: Device) -> None:
    """Checks that an engine can be started here for the reference, even if those of the policy run elsewhere.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    try:
        require_engine_extra(device)
    except MissingExtraError as error:
        raise MissingExtraError(
            f"{PARAM} is measured on an engine that is started here, which needs vllm: pip install "
            f"'reheatd[engine-{device}]', or give the reference's entropy as entropy.baseline_nats instead",
            param=PARAM,
        ) from error
