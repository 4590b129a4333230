"""Data sets of the Hugging Face hub: only the files of the wanted split are downloaded, into the hub's own cache."""

from pathlib import Path

from reheatd.errors import BadInputError
from reheatd.tasks.files import CARD, SUFFIXES, choose_files, folder_files

CONVERTED = "refs/convert/parquet"
"""The branch with the parquet files into which the hub itself converts a data set in any other format."""


def hub_files(dataset: str, subset: str | None, split: str | None) -> list[Path]:
    """The files of one split of a data set of the hub, such as `openai/gsm8k`, or `openai/gsm8k@REVISION`.

    Where the hub cannot be reached, they are those in its cache, which keeps what was downloaded before.

    Raises:
        BadInputError: The data set or the split does not exist, or the hub cannot be reached and its cache lacks it.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name, _, revision = dataset.partition("@")
    revision = revision or "main"
    try:
        return _downloaded(dataset, name, revision, subset, split)
    except BadInputError:
        raise
    except (HfHubHTTPError, HFValidationError) as error:
        raise BadInputError(
            f"{dataset} is no file or folder here, and the Hugging Face hub does not give a data set of that name "
            f"({_line(error)}); name a local file, or `hf auth login` if it is a private one",
            param="task.path",
        ) from error
    except Exception as error:  # of the transport, whose library changes with the versions of the hub's
        return _cached(dataset, name, revision, subset, split, error)


def _downloaded(dataset: str, name: str, revision: str, subset: str | None, split: str | None) -> list[Path]:
    from huggingface_hub import hf_hub_download

    revision, files = _listing(name, revision)

    def download(file: str) -> Path:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))

    card = download(CARD) if CARD in files else None
    return [*map(download, choose_files(files, card, subset=subset, split=split, where=dataset))]


def _listing(name: str, revision: str) -> tuple[str, list[str]]:
    """The revision to read, and its files."""
    from huggingface_hub import HfApi

    files = [file.rfilename for file in HfApi().dataset_info(name, revision=revision).siblings or ()]
    if any(file.endswith(SUFFIXES) for file in files):
        return revision, files
    return CONVERTED, [file.rfilename for file in HfApi().dataset_info(name, revision=CONVERTED).siblings or ()]


def _cached(
    dataset: str, name: str, revision: str, subset: str | None, split: str | None, cause: Exception
) -> list[Path]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        raise BadInputError(
            f"{dataset} is no file or folder here, and the Hugging Face hub cannot be asked "
            f"({type(cause).__name__}: {_line(cause)}) and was not before; name a local file, or see to the network",
            param="task.path",
        ) from cause
    return folder_files(Path(cached), subset, split)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
