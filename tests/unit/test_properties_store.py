"""The adapter store when its process dies at any write: nothing published is lost, and nothing is half there."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reheatd.adapters.store import AdapterStore, content_digest
from reheatd.database import connect
from reheatd.errors import ConflictError
from tests.unit.properties import tries

FIELDS: dict[str, Any] = {"parent": 0, "base_model": "tiny", "base_digest": "0" * 64, "kind": "reheat"}
WRITES = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.copyfile"})
"""What Python tells its audit hooks before it changes a folder or opens a file."""
MOST_WRITES = 60
DIED = 77
Action = Callable[[AdapterStore], object]


class StoreMachine(RuleBasedStateMachine):
    """A store and what must be in it: the contents of the versions by number, and which of them is promoted."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.contents: dict[int, str] = {}
        self.promoted = 0
        self.last_number = 0
        self.published = 0

    @initialize()
    def make(self) -> None:
        self.run(lambda store: None)

    @rule()
    def publish(self) -> None:
        content, source = self.source()
        version = self.run(lambda store: asyncio.run(store.publish(source, **FIELDS)).version)
        self.added(version, content)

    @rule(dies_at=st.integers(1, MOST_WRITES))
    def publish_and_die(self, dies_at: int) -> None:
        content, source = self.source()
        died = self.die(lambda store: asyncio.run(store.publish(source, **FIELDS)), dies_at)
        new = set(self.run(lambda store: store.versions())) - {0, *self.contents}
        # It may be whole even if the process died: then only the answer was lost.
        assert len(new) <= 1 and (died or new)
        for version in new:
            self.added(version, content)

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from([0, *sorted(self.contents)]))
        self.run(lambda store: store.promote(version))
        self.promoted = version

    @precondition(lambda self: self.contents)
    @rule(data=st.data(), dies_at=st.integers(1, 12))
    def promote_and_die(self, data: st.DataObject, dies_at: int) -> None:
        version = data.draw(st.sampled_from([0, *sorted(self.contents)]))
        died = self.die(lambda store: store.promote(version), dies_at)
        now = self.run(lambda store: store.promoted())
        assert now in ({version, self.promoted} if died else {version})
        self.promoted = now

    @precondition(lambda self: self.contents)
    @rule(data=st.data(), dies_at=st.integers(1, 40))
    def delete_and_die(self, data: st.DataObject, dies_at: int) -> None:
        version = data.draw(st.sampled_from(sorted(self.contents)))
        if version == self.promoted:
            self.run(lambda store: self.refuses(store, version))
            return
        died = self.die(lambda store: store.delete(version), dies_at)
        left = self.run(lambda store: store.versions())
        assert died or version not in left
        if version not in left:
            del self.contents[version]

    @rule(dies_at=st.integers(1, 20))
    def open_and_die(self, dies_at: int) -> None:
        self.die(lambda store: None, dies_at)

    @invariant()
    def holds_what_was_published(self) -> None:
        def check(store: AdapterStore) -> None:
            assert store.versions() == [0, *sorted(self.contents)]
            assert store.promoted() == self.promoted
            for version, content in self.contents.items():
                info = store.get(version)
                assert info.state != "lost" and info.lineage is not None
                folder = store.path(version)
                assert info.lineage.digest == content_digest(folder)
                assert (folder / "adapter_model.safetensors").read_text() == content
                assert (info.state == "promoted") == (version == self.promoted)
            kept = {store.path(version).name for version in self.contents}
            assert {path.name for path in (self.folder / "adapters").iterdir()} == kept

        self.run(check)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def run(self, action: Callable[[AdapterStore], Any]) -> Any:
        """Opens the store as a daemon does that starts, and acts on it."""
        with closing(connect(self.folder / "db.sqlite3")) as db:
            return action(AdapterStore(self.folder / "adapters", db))

    def die(self, action: Action, dies_at: int) -> bool:
        """Acts in a process that ends before its write number `dies_at`, and says whether it came so far."""
        child = os.fork()
        if child == 0:
            self._act_and_die(action, dies_at)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, DIED), code
        return code == DIED

    def _act_and_die(self, action: Action, dies_at: int) -> None:
        left = dies_at

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(DIED)

        try:
            with closing(connect(self.folder / "db.sqlite3")) as db:
                db.set_trace_callback(count)  # called before each statement, COMMIT included
                sys.addaudithook(lambda event, _: count() if event in WRITES else None)
                action(AdapterStore(self.folder / "adapters", db))
            os._exit(0)
        finally:
            os._exit(1)

    def source(self) -> tuple[str, Path]:
        self.published += 1
        content = f"weights {self.published}"
        folder = self.folder / f"trained-{self.published}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text(content)
        (folder / "adapter_config.json").write_text("{}")
        return content, folder

    def added(self, version: int, content: str) -> None:
        assert version > self.last_number, "a number was given out twice"
        self.last_number = version
        self.contents[version] = content

    def refuses(self, store: AdapterStore, version: int) -> None:
        try:
            store.delete(version)
        except ConflictError:
            return
        raise AssertionError(f"version {version} is promoted and was deleted")


TestStore = StoreMachine.TestCase
TestStore.settings = tries(4, stateful_step_count=10)
