"""What a reward's process can reach: the files that it may read, and the variables of its environment.

It can read the interpreter's installation, the modules on Python's path, the package or the modules of the reward
itself, and what the user names. It cannot read other files of the worker's user: data folder, configuration, keys, or
what the kernel shows of other processes. It can write into its own folder for temporary files.
"""

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from reheatd.process.landlock import is_available, restrict

OURS = Path(__file__).parents[2]
PASSED_VARIABLES = frozenset(
    (
        "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV",
        "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "OMP_NUM_THREADS", "GOMP_SPINCOUNT",
        "TOKENIZERS_PARALLELISM",
    )
)  # fmt: skip
"""Variables that a reward's process gets, besides `LC_*` and those that the user names."""
SYSTEM = tuple(
    Path("/", *part.split("/"))
    for part in (
        "usr", "lib", "lib32", "lib64", "bin", "sbin", "etc/ld.so.cache", "etc/ld.so.conf", "etc/ld.so.conf.d",
        "etc/alternatives", "etc/localtime", "etc/ssl/certs", "etc/ssl/openssl.cnf", "etc/pki/tls/certs",
        "etc/ca-certificates", "etc/hosts", "etc/host.conf", "etc/resolv.conf", "etc/nsswitch.conf", "etc/gai.conf",
        "etc/services", "etc/protocols", "etc/passwd", "etc/group", "etc/mime.types", "etc/os-release", "dev/zero",
        "dev/random", "dev/urandom", "proc/self", "proc/cpuinfo", "proc/meminfo", "proc/stat", "proc/filesystems",
        "sys/devices/system",
    )
)  # fmt: skip
"""What an interpreter, a C library and a compiler read, and nothing that belongs to a user."""
DEVICES = (Path("/dev/null"), Path("/dev/full"))
OF_AN_INSTALLATION = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg")
"""Parts of a prefix; it may itself be a project's folder that holds much else."""
CODE = frozenset((".py", ".pyc", ".so", ".pth", ".zip", ".egg"))


def passed_environment(environment: Mapping[str, str], named: Iterable[str] = ()) -> dict[str, str]:
    """The part of `environment` that a reward's process gets.

    Args:
        named: Further names of variables, which the user has given.
    """
    wanted = PASSED_VARIABLES.union(named)
    return {name: value for name, value in environment.items() if name in wanted or name.startswith("LC_")}


def confine(module: str, named: Iterable[Path], scratch: Path) -> None:
    """Takes all other files from this process, where the kernel can do that; see `reheatd.process.landlock`.

    Args:
        module: The reward's module, which need not be imported yet.
        named: Further files and folders that it may read.
        scratch: Folder that it may write into.
    """
    if not is_available():
        return
    folders = [Path(entry or ".") for entry in sys.path]
    readable = [*_installation(), *_package(module), *_ours(), *named]
    for folder in folders:
        readable += _code_in(folder)
    restrict(readable, listable=filter(os.path.isdir, folders), writable=[scratch, *DEVICES])


def confine_to_installation() -> None:
    """Takes all files but those of the interpreter's installation, where the kernel can do that."""
    if is_available():
        restrict([*_installation(), *DEVICES])


def _installation() -> list[Path]:
    """The system's libraries and the interpreter with its packages."""
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    parts = [Path(prefix, part) for prefix in sorted(prefixes) for part in OF_AN_INSTALLATION]
    return [*SYSTEM, *parts, Path(sys.executable).resolve()]


def _ours() -> list[Path]:
    return [OURS / "reheatd", OURS / "workers"]


def _package(module: str) -> list[Path]:
    """The folders of the package that `module` is in, or the code beside a module that is in none."""
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):  # loading the reward says what is wrong with it
        return []
    if found is None:
        return []
    if found.submodule_search_locations:
        return [Path(place) for place in found.submodule_search_locations]
    return list(_code_in(Path(found.origin).parent)) if found.has_location and found.origin else []


def _code_in(folder: Path) -> Iterator[Path]:
    """What a folder on Python's path has for the interpreter, and nothing else: it may be a project or a home."""
    if os.path.isfile(folder) or folder.name in ("site-packages", "dist-packages"):
        yield folder
    elif os.path.isdir(folder) and os.access(folder, os.R_OK):
        for path in folder.iterdir():
            is_package = path.suffix in (".dist-info", ".egg-info") or os.path.isfile(path / "__init__.py")
            if path.suffix in CODE or path.name == "__pycache__" or is_package:
                yield path


def hint(error: BaseException) -> str:
    """What to do about an error that may come from these limits; empty for other errors."""
    if not isinstance(error, PermissionError) or not is_available():
        return ""
    return " (a reward can read its code and what workers.reward_paths names)"
