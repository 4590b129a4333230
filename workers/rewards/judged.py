"""A reward that says why."""


class Judged(float):
    """A reward with a word about it, which is kept with the rollout: `Judged(0.0, "it states 41")`.

    To whoever takes it for a number, it is that number.
    """

    said: str

    def __new__(cls, value: float, said: str) -> "Judged":
        judged = super().__new__(cls, value)
        judged.said = said
        return judged
