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
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return _files(dataset, subset, split)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise BadInputError(
            f"{dataset} is no file or folder here, and the Hugging Face hub does not give a data set of that name "
            f"({str(error).strip().splitlines()[0]}); name a local file, or `hf auth login` if it is a private one",
            param="task.path",
        ) from error


def _files(dataset: str, subset: str | None, split: str | None) -> list[Path]:
    from huggingface_hub import hf_hub_download, snapshot_download

    name, _, revision = dataset.partition("@")
    listing = _listing(name, revision or "main")
    if listing is None:
        cached = snapshot_download(name, repo_type="dataset", revision=revision or "main", local_files_only=True)
        return folder_files(Path(cached), subset, split)
    revision, files = listing

    def download(file: str) -> Path:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))

    card = download(CARD) if CARD in files else None
    return [*map(download, choose_files(files, card, subset=subset, split=split, where=dataset))]


def _listing(name: str, revision: str) -> tuple[str, list[str]] | None:
    """The revision to read and its files; None if the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        files = [file.rfilename for file in HfApi().dataset_info(name, revision=revision).siblings or ()]
        if any(file.endswith(SUFFIXES) for file in files):
            return revision, files
        files = [file.rfilename for file in HfApi().dataset_info(name, revision=CONVERTED).siblings or ()]
        return CONVERTED, files
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception:  # errors of the transport, which the hub's library lets through as its versions have them
        return None
