"""Requests and answers of rollout servers written out: what was sent and came back, bounded, and never the key."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordexp.artifacts.dump_files import DumpBounds
from coordexp.artifacts.files import read_json_lines
from coordexp.rollout.seeding import evaluation_seed_base, request_seed
from coordexp.rollout.wire import RolloutServerError
from coordexp.spec import check
from coordexp.training.request_dump import RequestDump
from tests.plugins.client_bench import SAMPLED, Bench
from tests.plugins.rogue_answers import ANSWER_LENGTH
from tests.plugins.rogue_server import Behaviour, Rogue, rogue

pytestmark = pytest.mark.timeout(60)
SEED, KEY = 17, 'a-key-with-"quotes"'
BOUNDS = DumpBounds(every_steps=2, max_events=2, max_samples=3, max_chars=200, min_free_gib=0.0)
EVALUATION = replace(SAMPLED, seed_base=evaluation_seed_base(SEED))


class Asked:
    """A client over rogue servers whose calls are dumped into `folder`."""

    def __init__(self, bench: Bench, folder: Path, *servers: Rogue, batch: int = 8, **bounds: Any) -> None:
        self.bench, self.folder = bench, folder / "requests"
        self.dump = RequestDump(folder, replace(BOUNDS, **bounds), SEED, KEY)
        self.client = bench.client(*servers, batch=batch)
        self.client.watch = self.dump

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*"))

    def lines(self, name: str) -> list[dict[str, Any]]:
        assert KEY.encode() not in (self.folder / name).read_bytes()
        return [check("request-dump", line) for line in read_json_lines(self.folder / name)]

    def train(self, *steps: int) -> None:
        for step in steps:
            self.client.generate(self.bench.requests, SAMPLED, step)

    def evaluate(self, *steps: int) -> None:
        for step in steps:
            self.client.generate(self.bench.requests, EVALUATION, step)


def spoken(bench: Bench, text: str, **envelope: Any) -> Behaviour:
    """Good answers whose message is `text`, and which say `envelope` besides."""

    def speak(outputs: list[dict[str, Any]]) -> None:
        for made in outputs:
            made["response"]["choices"][0]["message"] = {"role": "assistant", "content": text}
            made["response"] |= envelope

    return bench.answers.spoilt(speak)


@pytest.mark.invariant("ROLL-072")
def test_a_dump_holds_what_was_sent_and_what_came_back(bench: Bench, tmp_path: Path) -> None:
    with rogue({"/infer/": spoken_list(bench, "a ж answer")}) as server:
        asked = Asked(bench, tmp_path, server, max_chars=10_000)
        asked.train(4)
    (call,) = server.calls("/infer/")
    lines = asked.lines("step_000004.jsonl")
    assert len(lines) == 3, "of four"
    for number, (line, sent, request) in enumerate(
        zip(lines, call.body["infer_requests"], bench.requests, strict=False)
    ):
        assert (line["mode"], line["policy_version"], line["server"]) == ("train", 4, server.base_url)
        assert line["request"]["messages"] == sent["messages"] and line["request_config"] == call.body["request_config"]
        assert line["request"]["seed"] == request_seed(SAMPLED.seed_base, number) == sent["coordexp"]["seed"]
        content = request.image_paths[0].read_bytes()
        assert line["request"]["images"] == [{"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}]
        answer = line["answer"]
        assert (answer["text"], answer["finish_reason"]) == ("a ж answer", "stop")
        assert answer["prompt_tokens"] == len(request.prompt_token_ids) and answer["response_tokens"] == ANSWER_LENGTH
        reply = json.loads(answer["reply"])
        assert reply["coordexp"]["seed"] == sent["coordexp"]["seed"] and answer["reply_chars"] == len(answer["reply"])
        assert reply["response"]["prompt_token_ids"] == list(request.prompt_token_ids)


def spoken_list(bench: Bench, text: str, **envelope: Any) -> list[Behaviour]:
    return [spoken(bench, text, **envelope)]


@pytest.mark.invariant("ROLL-072")
def test_dumps_are_within_their_bounds(bench: Bench, tmp_path: Path) -> None:
    with rogue({"/infer/": [bench.answers.good()]}) as server:
        asked = Asked(bench, tmp_path, server, batch=2)
        # As a run does it: an evaluation of the weights that the next step rolls out with.
        asked.train(0, 1)
        asked.evaluate(2)
        asked.train(2, 3)
        asked.evaluate(4)
        asked.train(4, 5, 6)
        asked.evaluate(6)
    assert asked.names() == ["eval_000002.jsonl", "eval_000004.jsonl", "step_000000.jsonl", "step_000002.jsonl"]
    for name in asked.names():
        lines = asked.lines(name)
        assert len(lines) == 3, "two of the first round, one of the second"
        assert len({line["request"]["seed"] for line in lines}) == 3
        assert {line["mode"] for line in lines} == {"eval" if name.startswith("eval") else "train"}
        for line in lines:
            assert all(len(message["content"]) <= 200 for message in line["request"]["messages"])
            assert len(line["answer"]["reply"]) == 200 < line["answer"]["reply_chars"]
    assert asked.dump.take_observed()["rollout/dumps_written_total"] == (4.0, 0.0)


@pytest.mark.invariant("ROLL-072")
def test_without_the_first_step_dumps_begin_later(bench: Bench, tmp_path: Path) -> None:
    with rogue({"/infer/": [bench.answers.good()]}) as server:
        asked = Asked(bench, tmp_path, server, first_step=False)
        asked.train(5, 6, 7)
    assert asked.names() == ["step_000007.jsonl"]


@pytest.mark.invariant("ROLL-072")
def test_requests_of_several_servers_share_an_event(bench: Bench, tmp_path: Path) -> None:
    good = {"/infer/": [bench.answers.good()]}
    with rogue(good) as first, rogue({**good}) as second:
        asked = Asked(bench, tmp_path, first, second, max_samples=4)
        asked.train(0)
    lines = asked.lines("step_000000.jsonl")
    assert sorted(line["server"] for line in lines) == sorted([first.base_url, second.base_url] * 2)


@pytest.mark.invariant("ROLL-072")
def test_what_the_client_refuses_is_there_to_be_read(bench: Bench, tmp_path: Path) -> None:
    with rogue({"/infer/": [bench.answers.spoilt(lambda outputs: outputs[:1])]}) as server:
        asked = Asked(bench, tmp_path, server)
        with pytest.raises(RolloutServerError, match="4 prompts were sent and 1 outputs came back"):
            asked.train(0)
    lines = asked.lines("step_000000.jsonl")
    assert [line["answer"] is None for line in lines] == [False, True, True]


@pytest.mark.invariant("ROLL-072")
def test_the_canary_takes_no_sample_s_place(bench: Bench, tmp_path: Path) -> None:
    with rogue({"/infer/": [bench.answers.good()]}) as server:
        asked = Asked(bench, tmp_path, server)
        asked.client.ask(asked.client.servers[0], bench.requests[:1], SAMPLED, 0)
        assert not asked.names()


@pytest.mark.invariant("ROLL-073")
def test_a_server_that_repeats_the_key_does_not_get_it_written_down(bench: Bench, tmp_path: Path) -> None:
    with rogue({"/infer/": spoken_list(bench, f"you said {KEY}", model=KEY)}) as server:
        asked = Asked(bench, tmp_path, server, max_chars=10_000)
        asked.train(0)
    for line in asked.lines("step_000000.jsonl"):
        assert line["answer"]["text"] == "you said <api key>"
        assert json.dumps(KEY)[1:-1] not in line["answer"]["reply"] and "<api key>" in line["answer"]["reply"]


@pytest.mark.invariant("ROLL-073")
@pytest.mark.parametrize("text", ["\ud83d", "\x00\x1b[2J\n\u2028", "‮]}{[bold]", "x" * 10_000])
def test_whatever_a_server_says_is_written_down(bench: Bench, tmp_path: Path, text: str) -> None:
    with rogue({"/infer/": spoken_list(bench, text)}) as server:
        asked = Asked(bench, tmp_path, server)
        asked.train(0)
    assert {line["answer"]["text"] for line in asked.lines("step_000000.jsonl")} == {text[:200]}


@pytest.mark.invariant("ROLL-072")
def test_a_disk_that_fails_leaves_the_answers(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "requests").write_text("a file")
    with rogue({"/infer/": [bench.answers.good()]}) as server, caplog.at_level(logging.WARNING, logger="coordexp"):
        asked = Asked(bench, tmp_path, server)
        assert len(asked.client.generate(bench.requests, SAMPLED, 0)) == 4
        asked.train(2)
    assert asked.dump.take_observed()["rollout/dumps_failed_total"] == (2.0, 0.0)
    (told,) = caplog.records
    assert told.getMessage().startswith("rollout_matching.vllm.server.debug_dump: ")
