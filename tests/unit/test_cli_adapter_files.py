"""`reheatd adapters import | export | delete | prune` against a daemon's real API, and what they refuse."""

import asyncio
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reheatd.adapters.archive import pack
from reheatd.adapters.lineage import Lineage
from reheatd.adapters.validate import base_digest
from reheatd.control.dependencies import ServedPolicy
from reheatd.process.http_server import HttpServer
from reheatd.process.instance import listen, url_of
from tests.random_adapter import random_adapter
from tests.unit.api_support import ApiWorld
from tests.unit.test_cli_commands import Done, reheatd


class Daemon:
    """The admin API on a port, in a thread; the control loop does not run, so jobs stay queued."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.url = ""
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        world = ApiWorld(self.folder)
        world.policy = ServedPolicy("tiny", self.model, base_digest(self.model), vocabulary=320)
        fields: dict[str, Any] = {"parent": 0, "base_model": "tiny", "base_digest": world.policy.digest, "kind": "rl"}
        for seed in (1, 2, 3):
            trained = random_adapter(self.folder / f"trained-{seed}", self.model, rank=4, seed=seed)
            await world.store.publish(trained, **fields, spec={"model_path": str(self.model)})
        with listen("127.0.0.1", 0) as listener:
            server = HttpServer((world.app(), listener), drain_timeout_s=1.0)
            server.start()
            self.url = url_of("127.0.0.1", listener.getsockname()[1])
            self._ready.set()
            await asyncio.to_thread(self._stop.wait)
            await server.drain()
        world.db.close()

    def __enter__(self) -> "Daemon":
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def daemon(tmp_path: Path, tiny_policy: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data", tiny_policy) as running:
        yield running


def run(daemon: Daemon, *arguments: str) -> Done:
    return reheatd("adapters", *arguments, "--url", daemon.url)


def one_line(done: Done, says: str) -> None:
    assert done.returncode == 2 and says in done.stderr, done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("reheatd: ")


def test_import_takes_folders_checkpoints_and_archives(daemon: Daemon, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "run" / "actor" / "lora_adapter", daemon.model, rank=4)
    (adapter / "optimizer.pt").write_bytes(b"not sent")
    (tmp_path / "adapter.tar").write_bytes(b"".join(pack({file.name: file for file in adapter.glob("adapter_*")})))
    with tarfile.open(tmp_path / "adapter.tar.gz", "w:gz") as tar:
        tar.add(adapter, arcname="lora_adapter", filter=lambda member: None if "optim" in member.name else member)
    for path in (adapter, tmp_path / "run", tmp_path / "adapter.tar", tmp_path / "adapter.tar.gz"):
        done = run(daemon, "import", str(path), "--json")
        assert done.returncode == 0, done
        job = json.loads(done.stdout)
        assert (job["kind"], job["status"], job["request"]["source"]) == ("import", "queued", path.name)
        folder = daemon.folder / "jobs" / job["job_id"] / "imported"
        assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_what_cannot_be_imported_is_one_line(daemon: Daemon, tmp_path: Path) -> None:
    one_line(run(daemon, "import", str(tmp_path / "nothing")), "does not exist")
    one_line(run(daemon, "import", str(daemon.model)), "one adapter_config.json is needed, found none")
    (tmp_path / "text.tar").write_text("no archive at all" * 100)
    one_line(run(daemon, "import", str(tmp_path / "text.tar")), "no tar archive")
    adapter = random_adapter(tmp_path / "adapter", daemon.model, rank=4)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/other"}))
    one_line(run(daemon, "import", str(adapter)), "trained on org/other")
    assert run(daemon, "import", str(adapter), "--any-base").returncode == 0
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    one_line(run(daemon, "import", str(adapter), "--any-base"), "adapter_model.bin is pickled")
    assert len(list((daemon.folder / "jobs").iterdir())) == 1


def test_export_writes_what_peft_loads(daemon: Daemon, tmp_path: Path) -> None:
    done = run(daemon, "export", "2", str(tmp_path / "out"), "--json")
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "out")
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "lineage.json"]
    wanted = daemon.folder / "trained-2" / "adapter_model.safetensors"
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == wanted.read_bytes()
    assert Lineage.model_validate_json((tmp_path / "out" / "lineage.json").read_text()).version == 2
    # It goes back in.
    assert run(daemon, "import", str(tmp_path / "out"), "--any-base").returncode == 0
    one_line(run(daemon, "export", "2", str(tmp_path / "out")), "exists already")
    one_line(run(daemon, "export", "9", str(tmp_path / "nine")), "does not exist")
    one_line(run(daemon, "export", "0", str(tmp_path / "nine")), "has no adapter")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "out"]


def test_export_merges_with_the_version_s_own_base(daemon: Daemon, tmp_path: Path) -> None:
    done = run(daemon, "export", "1", str(tmp_path / "full"), "--merged")
    assert done.returncode == 0, done
    names = {file.name for file in daemon.model.iterdir()}
    assert {file.name for file in (tmp_path / "full").iterdir()} == names
    one_line(run(daemon, "export", "1", str(tmp_path / "o"), "--merged", "--base", str(tmp_path)), "name its folder")
    one_line(
        run(daemon, "export", "1", str(tmp_path / "o"), "--merged", "--base", str(tmp_path / "full")), "is not the base"
    )
    one_line(run(daemon, "export", "1", str(tmp_path / "o"), "--base", str(daemon.model)), "--merged")
    assert not (tmp_path / "o").exists()


def test_push_uploads_what_was_written(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class Hub:
        uploaded: tuple[str, list[str]] | None = None

        def create_repo(self, repo: str, **options: Any) -> None:
            if repo == "full":
                raise OSError("quota exceeded\nsecond line")

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
            Hub.uploaded = repo_id, sorted(file.name for file in folder_path.iterdir())

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert run(daemon, "export", "1", str(tmp_path / "out"), "--push", "me/policy").returncode == 0
    assert Hub.uploaded == ("me/policy", ["adapter_config.json", "adapter_model.safetensors", "lineage.json"])
    one_line(run(daemon, "export", "1", str(tmp_path / "again"), "--push", "full"), "quota exceeded")
    assert (tmp_path / "again" / "adapter_config.json").exists()


def test_delete_and_prune(daemon: Daemon) -> None:
    one_line(run(daemon, "delete", "0"), "being served")
    assert json.loads(run(daemon, "delete", "2", "--json").stdout) == {"deleted": [2]}
    one_line(run(daemon, "delete", "2"), "does not exist")
    assert "deleted policy-v1" in run(daemon, "prune", "--keep", "1").stdout
    assert "nothing to delete" in run(daemon, "prune", "--keep", "1").stdout
