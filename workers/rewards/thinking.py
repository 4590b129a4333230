"""What a thinking model says once it has thought."""

END = "</think>"


def said(completion: str) -> str:
    """What follows the last `</think>` of a completion, without its first empty lines; all of it if there is none."""
    _, end, rest = completion.rpartition(END)
    return rest.lstrip("\n") if end else completion
