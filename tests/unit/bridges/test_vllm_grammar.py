"""vLLM's own constrained decoding with the project's two additions, on its own classes, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend
from vllm.v1.worker import gpu_model_runner
from vllm.v1.worker.gpu.sample.sampler import Sampler as SecondSampler
from vllm.v1.worker.gpu.structured_outputs import StructuredOutputsWorker

from coordexp.bridges import versions
from coordexp.bridges.vllm_grammar import install_grammar
from coordexp.coordjson import render_expression
from coordexp.coords.vocab import build_coord_vocab
from coordexp.encode.vocabulary import END_OF_TURN, PAD
from coordexp.rollout.grammar import TokenGrammar, find_exact

if TYPE_CHECKING:
    from collections.abc import Iterator

PATCHED = [
    (XgrammarBackend, "compile_grammar"),
    (gpu_model_runner, "apply_grammar_bitmask"),
    (Sampler, "apply_logits_processors"),
    (StructuredOutputsWorker, "apply_grammar_bitmask"),
    (SecondSampler, "sample"),
]


def mask_here(self: Any, logits: torch.Tensor, input_batch: Any, grammar_req_ids: Any, grammar_bitmask: Any) -> None:
    """In the place of the second runner's kernel, which needs a GPU."""
    bits = (torch.from_numpy(grammar_bitmask)[:, :, None] >> torch.arange(32)) & 1
    logits[: len(bits)].masked_fill_(bits.flatten(1)[:, : logits.shape[1]] == 0, -torch.inf)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The additions, taken out again afterwards."""
    monkeypatch.setattr(StructuredOutputsWorker, "apply_grammar_bitmask", mask_here)
    monkeypatch.setattr(SecondSampler, "sample", lambda self, logits, *args, **kwargs: (logits, args, kwargs))
    for owner, name in PATCHED:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    assert install_grammar(find_exact, END_OF_TURN), "in place for the first time"
    assert not install_grammar(find_exact, END_OF_TURN), "and no second time"
    yield
    del XgrammarBackend.coordexp_exact


def compiled(tokenizer: Any, expression: str, stop_token_ids: Any = None) -> Any:
    config = SimpleNamespace(
        structured_outputs_config=SimpleNamespace(disable_any_whitespace=False),
        model_config=SimpleNamespace(hf_config=SimpleNamespace(model_type="qwen3_vl")),
        speculative_config=None,
    )
    backend = XgrammarBackend(config, tokenizer, len(tokenizer))
    return backend.compile_grammar(StructuredOutputOptions.REGEX, expression, stop_token_ids)


def allowed(grammar: Any, size: int) -> list[int]:
    bitmask = torch.zeros(2, -(-size // 32), dtype=torch.int32)
    grammar.fill_bitmask(bitmask, 1)
    assert not bitmask[0].any()
    bits = ((bitmask[1][:, None] >> torch.arange(32)) & 1).flatten()[:size]
    return bits.nonzero().flatten().tolist()


@pytest.mark.invariant("ROLL-053")
@pytest.mark.usefixtures("installed")
def test_a_mask_is_that_of_the_hf_backend_at_every_token(cut_tokenizer) -> None:
    size, end = len(cut_tokenizer), cut_tokenizer.eos_token_id
    expression = render_expression("desc_first")
    # Upstream is told of the end tokens that the checkpoint names, which may be others.
    served = compiled(cut_tokenizer, expression, {cut_tokenizer.convert_tokens_to_ids(PAD)})
    own = TokenGrammar(expression, cut_tokenizer, size)
    matcher, words = own.open_matcher(), torch.zeros(1, len(own.exact), dtype=torch.int32)
    text = '{"objects": [{"desc": "red circle", "bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_30|>, <|coord_4|>]}]}'
    coords = set(build_coord_vocab(cut_tokenizer).ids)
    for token in cut_tokenizer.encode(text, add_special_tokens=False):
        found = allowed(served, size)
        matcher.fill_next_token_bitmask(words, 0)
        bits = (((words[0] & own.exact)[:, None] >> torch.arange(32)) & 1).flatten()[:size]
        assert found == bits.nonzero().flatten().tolist()
        assert token in found and end not in found
        assert set(found) == coords or not coords & set(found)
        assert served.accept_tokens("r", [token]) and matcher.accept_token(token)
    assert allowed(served, size) == [end]
    assert not served.is_terminated()


@pytest.mark.invariant("ROLL-053")
@pytest.mark.usefixtures("installed")
def test_an_end_that_something_else_forces_is_no_fault(cut_tokenizer) -> None:
    grammar = compiled(cut_tokenizer, render_expression("desc_first"))
    first = cut_tokenizer.encode('{"objects": [', add_special_tokens=False)
    assert grammar.accept_tokens("r", first)
    assert not grammar.accept_tokens("r", [cut_tokenizer.convert_tokens_to_ids("<|coord_7|>")]), "anything else is"
    assert grammar.accept_tokens("r", [cut_tokenizer.eos_token_id])


def metadata(rows: int) -> SamplingMetadata:
    nothing = torch.zeros(rows)
    return SamplingMetadata(
        temperature=None, all_greedy=True, all_random=False, top_p=None, top_k=None, generators={},
        max_num_logprobs=0, no_penalties=True, prompt_token_ids=None, frequency_penalties=nothing,
        presence_penalties=nothing, repetition_penalties=nothing, output_token_ids=[[]] * rows,
        allowed_token_ids_mask=None, bad_words_token_ids={}, logitsprocs=LogitsProcessors(),
    )  # fmt: skip


def step(drafts: dict[str, list[int]]) -> tuple[Any, Any, Any]:
    """What the runner masks by: of two requests the second is constrained, to tokens 1 and 2."""
    output = SimpleNamespace(
        grammar_bitmask=torch.tensor([[0b110]], dtype=torch.int32).numpy(), structured_output_request_ids=["b"]
    )
    return SimpleNamespace(scheduled_spec_decode_tokens=drafts), output, SimpleNamespace(req_ids=["a", "b"])


@pytest.mark.invariant("ROLL-053")
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_raw_log_probabilities_are_taken_before_the_mask(dtype: torch.dtype) -> None:
    logits = torch.tensor([[5.0, 1.0, 0.0, 2.0], [5.0, 1.0, 0.0, 2.0]], dtype=dtype)
    raw = logits.float().log_softmax(-1)
    gpu_model_runner.apply_grammar_bitmask(*step({}), logits)
    assert torch.isfinite(logits).all(), "nothing is masked yet"
    sampler = Sampler()
    output = sampler(logits, metadata(2))
    assert output.sampled_token_ids.flatten().tolist() == [0, 1]
    assert output.logprobs_tensors.logprobs.flatten().tolist() == pytest.approx([float(raw[0, 0]), float(raw[1, 1])])
    free = torch.tensor([[0.0, 0.0, 0.0, 2.0]])
    assert sampler(free, metadata(1)).sampled_token_ids.tolist() == [[3]], "a mask acts once"


@pytest.mark.invariant("ROLL-053")
@pytest.mark.usefixtures("installed")
def test_drafts_are_masked_at_once() -> None:
    logits = torch.zeros(3, 4)
    gpu_model_runner.apply_grammar_bitmask(*step({"a": [1]}), logits)
    assert torch.isfinite(logits[2]).tolist() == [False, True, True, False]


@pytest.mark.invariant("ROLL-053")
@pytest.mark.usefixtures("installed")
def test_the_second_runner_samples_from_masked_scores_and_keeps_its_own() -> None:
    logits, batch = torch.zeros(2, 4), SimpleNamespace(num_draft_tokens=0)
    # Neither can be built without a GPU, and neither is asked for anything here.
    worker = sampler = SimpleNamespace()
    mask, sample = StructuredOutputsWorker.apply_grammar_bitmask, SecondSampler.sample
    bitmask = torch.tensor([[0b110]], dtype=torch.int32).numpy()
    mask(worker, logits, batch, ["a"], bitmask)
    assert torch.isfinite(logits).all()
    masked, args, kwargs = sample(sampler, logits, 7, return_logprobs=True)
    assert torch.isfinite(masked).tolist() == [[False, True, True, False], [True] * 4]
    assert torch.isfinite(logits).all() and args == (7,) and kwargs == {"return_logprobs": True}
    assert sample(sampler, logits)[0] is logits, "a mask acts once"
    mask(worker, logits, SimpleNamespace(num_draft_tokens=2), ["a"], bitmask)
    assert torch.isfinite(logits[0]).tolist() == [False, True, True, False], "drafts are masked at once"


@pytest.mark.invariant("ROLL-053")
@pytest.mark.parametrize(("name", "release"), [("vllm", "0.33.0"), ("vllm", None), ("xgrammar", "0.3.0")])
def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, release: str | None) -> None:
    proven = {"vllm": "0.32.0", "xgrammar": "0.2.8"} | {name: release}
    monkeypatch.setattr(versions, "installed_version", proven.__getitem__)
    before = [getattr(owner, attribute) for owner, attribute in PATCHED]
    with pytest.raises(ImportError, match=rf"{name} {release or 'absent'}: decoding by the grammar on vLLM is proven"):
        install_grammar(find_exact, END_OF_TURN)
    assert [getattr(owner, attribute) for owner, attribute in PATCHED] == before
