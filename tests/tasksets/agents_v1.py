"""A taskset of verifiers whose reward looks at what an agent has left behind."""

import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]


class AgentTask(vf.Task[vf.TaskData, vf.State, vf.TaskConfig]):
    @vf.reward
    async def wrote_a_file(self, trace: vf.Trace, runtime: vf.Runtime) -> float:
        return 1.0


class AgentTaskset(vf.Taskset[AgentTask, vf.TasksetConfig]):
    def load(self) -> list[AgentTask]:
        data = [vf.TaskData(prompt=f"Write the file {number}.") for number in range(30)]  # pyright: ignore[reportCallIssue]
        return [AgentTask(each) for each in data]


__all__ = ["AgentTaskset"]
