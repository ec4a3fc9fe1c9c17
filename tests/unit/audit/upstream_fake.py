"""A small upstream package and a small project that uses it, on disk: what the real packages never show at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from audit.upstream.__main__ import accept
from audit.upstream.installed import Installed
from audit.upstream.judge import Drift, find_drifts
from audit.upstream.survey import Survey, survey

UPSTREAM = {
    "__init__.py": "from .core import *\nfrom .trainer import Trainer\nLIMIT = 5\n",
    "core.py": '__all__ = ["cut"]\n\n\ndef cut(text, limit=10, *, strict=False):\n    return text[:limit]\n',
    "trainer.py": '''
from .base import Base


class Trainer(Base):
    def log(self, logs, start=None):
        """Says what happened."""
        print(logs)
''',
    "base.py": """
class Base:
    def __init__(self, model, args=None):
        self.model = model

    def save(self, folder=None):
        return folder

    def log(self, logs):
        raise NotImplementedError
""",
    "requests.py": """
from dataclasses import dataclass, field


@dataclass
class Request:
    messages: list
    images: list = field(default_factory=list, metadata={"help": "pictures"})
    seed: int = 1
""",
    "server.py": """
class Server:
    def register(self):
        guard = [self.key]
        self.app.get('/health/')(self.health)
        self.app.post('/infer/', response_model=None, dependencies=guard)(self.infer)

    def health(self):
        return 'ok'

    async def infer(self, requests):
        return requests
""",
}
PROJECT = {
    "coordexp/shorten.py": """
from __future__ import annotations

from typing import TYPE_CHECKING

import upstream
from upstream import core as c

if TYPE_CHECKING:
    from upstream.requests import Request


def shorten(text, request: Request):
    from upstream.server import Server

    return c.cut(text, limit=upstream.LIMIT, strict=True), Server
""",
    "coordexp/ours.py": """
from upstream import Trainer


class Ours(Trainer):
    def log(self, logs, start=None):
        super().log(logs, start)
        return self.mine()

    def mine(self):
        return self.model
""",
    "benchmarks/bench_ours.py": """from coordexp.ours import Ours


class Quiet(Ours):
    def save(self, folder=None):
        pass
""",
}
WATCHED = {
    "packages": {
        "upstream": {"distributions": ["up-stream"]},
        "engine": {"distributions": ["engine", "engine-cpu"], "optional": "only servers have an engine"},
    },
    "watches": [
        {
            "why": "a request is written with these fields",
            "used_by": ["coordexp.shorten:shorten"],
            "record": ["fields"],
            "symbols": ["upstream.requests.Request"],
        },
        {
            "why": "paths of the server that the launcher asks",
            "used_by": ["coordexp/shorten.py"],
            "of": "upstream.server.Server",
            "record": ["routes", "body"],
            "symbols": ["register"],
        },
    ],
    "absent": {"upstream.legacy": "the old package is refused"},
}


@dataclass
class Fake:
    """Both sides in one folder; `edit` changes a file of the package as an upgrade would."""

    root: Path

    @property
    def contracts(self) -> Path:
        return self.root / "project" / "contracts"

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} is not once in {name}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def watch(self, **changes: object) -> None:
        content = yaml.safe_dump({**json.loads(json.dumps(WATCHED)), **changes})
        self.write("project/contracts/upstream/watched.yaml", content)

    def survey(self) -> Survey:
        return survey(self.root / "project", self.contracts, Installed([self.root / "site"]))

    def drifts(self) -> list[Drift]:
        return find_drifts(self.survey())

    def texts(self) -> list[str]:
        return [str(drift) for drift in self.drifts()]

    def accept(self, console: object) -> int:
        found = self.survey()
        return accept(found, find_drifts(found), self.contracts, console)

    def recorded(self) -> str:
        return (self.contracts / "upstream" / "up-stream.yaml").read_text(encoding="utf-8")


def build_fake(root: Path) -> Fake:
    """The package at version 1.0, the project, and a contract without any record yet."""
    fake = Fake(root)
    for name, text in UPSTREAM.items():
        fake.write(f"site/upstream/{name}", text)
    fake.write("site/up_stream-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: up-stream\nVersion: 1.0+cpu\n")
    for name, text in PROJECT.items():
        fake.write(f"project/{name}", text)
    fake.watch()
    return fake
