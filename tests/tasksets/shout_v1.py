"""A taskset of verifiers, as its users write them: the policy is to shout a word."""

from collections.abc import Iterator

import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]


class ShoutData(vf.TaskData):
    word: str


class ShoutTask(vf.Task[ShoutData, vf.State, vf.TaskConfig]):
    @vf.reward(weight=0.75)
    async def shouted(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.rstrip("!") == self.data.word.upper())

    @vf.reward(weight=0.25)
    async def loud(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.endswith("!"))


class ShoutConfig(vf.TasksetConfig):
    prefix: str = "word"


class ShoutTaskset(vf.Taskset[ShoutTask, ShoutConfig]):
    INFINITE = True

    def load(self) -> Iterator[ShoutTask]:
        number = 0
        while True:
            word = f"{self.config.prefix}{number}"
            data = ShoutData(prompt=f"Shout {word}", word=word, system_prompt="Be loud.")  # pyright: ignore[reportCallIssue]
            yield ShoutTask(data)
            number += 1


__all__ = ["ShoutTaskset"]
