"""Let vLLM's constrained decoding keep to tokens, and log-probabilities stay the model's own. Contract ids: ROLL-053.

Upstream masks by xgrammar, which reads tokens as text: a coord token spelled with ordinary ones would pass, and any end
token that the checkpoint names. And it masks before it takes raw log-probabilities, so they would be those of what is
left. Installed in the process that holds the engine, before it is built, for both kinds of model runner; a CPU has the
first alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from coordexp.bridges.versions import check_proven

if TYPE_CHECKING:
    import torch

PROVEN_VERSIONS = {"vllm": "0.32.", "xgrammar": "0.2."}
_MARK = "coordexp_exact"
FindExact = Callable[[Any, int], "torch.Tensor"]
"""From a tokenizer and a number of ids: which of them may be let through at all, packed as xgrammar packs masks."""


def install_grammar(find_exact: FindExact, stop_token: str) -> bool:
    """Put both in place; False where they are. Raises `ImportError` for releases other than `PROVEN_VERSIONS`."""
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

    if hasattr(XgrammarBackend, _MARK):
        return False
    check_proven(PROVEN_VERSIONS, "decoding by the grammar on vLLM")
    setattr(XgrammarBackend, _MARK, True)
    _mask_exactly(find_exact, stop_token)
    _mask_after_logprobs()
    _mask_after_logprobs_on_gpus()
    return True


def _mask_exactly(find_exact: FindExact, stop_token: str) -> None:
    """Every grammar that is compiled from now on lets `find_exact` tokens through alone, and ends by `stop_token`."""
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend, XgrammarGrammar

    compiled, exact = XgrammarBackend.compile_grammar, {}

    class ExactGrammar(XgrammarGrammar):  # type: ignore[misc]
        """A grammar whose masks are narrowed by `kept`, and that an end token leaves wherever it stands."""

        kept: torch.Tensor
        stop_id: int

        def fill_bitmask(self, bitmask: torch.Tensor, idx: int) -> None:
            super().fill_bitmask(bitmask, idx)
            bitmask[idx] &= self.kept

        def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
            # What forces an end is no fault: upstream would end the request as one.
            return self.stop_id in tokens or bool(super().accept_tokens(request_id, tokens))

    @wraps(compiled)
    def compile_exactly(self: Any, request_type: Any, grammar_spec: str, stop_token_ids: Any = None) -> ExactGrammar:
        stop_id = int(self.tokenizer.convert_tokens_to_ids(stop_token))
        made = compiled(self, request_type, grammar_spec, {stop_id})
        if self.vocab_size not in exact:
            exact[self.vocab_size] = find_exact(self.tokenizer, self.vocab_size)
        grammar = ExactGrammar(matcher=made.matcher, vocab_size=made.vocab_size, ctx=made.ctx)
        grammar.kept, grammar.stop_id = exact[self.vocab_size], stop_id
        return grammar

    XgrammarBackend.compile_grammar = compile_exactly


def _mask_after_logprobs() -> None:
    """The first kind of runner: its sampler takes raw log-probabilities, then hands the scores to the processors."""
    from vllm.v1.sample.sampler import Sampler
    from vllm.v1.worker import gpu_model_runner

    mask, process = gpu_model_runner.apply_grammar_bitmask, Sampler.apply_logits_processors
    held: list[Callable[[torch.Tensor], None]] = []

    @wraps(mask)
    def hold(scheduler_output: Any, grammar_output: Any, input_batch: Any, logits: torch.Tensor) -> None:
        if scheduler_output.scheduled_spec_decode_tokens:
            # Drafts are verified elsewhere, by scores that have to be masked already.
            mask(scheduler_output, grammar_output, input_batch, logits)
        else:
            held.append(partial(mask, scheduler_output, grammar_output, input_batch))

    @wraps(process)
    def masked(self: Any, logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        while held:
            held.pop()(logits)
        return process(self, logits, *args, **kwargs)  # type: ignore[no-any-return]

    gpu_model_runner.apply_grammar_bitmask = hold
    Sampler.apply_logits_processors = masked


def _mask_after_logprobs_on_gpus() -> None:
    """The second kind: its sampler takes raw log-probabilities of the scores that it has given to `sample`."""
    from vllm.v1.worker.gpu.sample.sampler import Sampler as SecondSampler
    from vllm.v1.worker.gpu.structured_outputs import StructuredOutputsWorker

    mask, sample = StructuredOutputsWorker.apply_grammar_bitmask, SecondSampler.sample
    held: list[Callable[[torch.Tensor], None]] = []

    @wraps(mask)
    def hold(self: Any, logits: torch.Tensor, input_batch: Any, grammar_req_ids: Any, grammar_bitmask: Any) -> None:
        if input_batch.num_draft_tokens:
            mask(self, logits, input_batch, grammar_req_ids, grammar_bitmask)
        else:
            rest = {"grammar_req_ids": grammar_req_ids, "grammar_bitmask": grammar_bitmask}
            held.append(partial(mask, self, input_batch=input_batch, **rest))

    @wraps(sample)
    def masked(self: Any, logits: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if held:
            logits = logits.clone()
            while held:
                held.pop()(logits)
        return sample(self, logits, *args, **kwargs)

    StructuredOutputsWorker.apply_grammar_bitmask = hold
    SecondSampler.sample = masked
