"""The installed upstream packages against `contracts/upstream/`, and the reader against Python's own view of them."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest

from audit.upstream.contract import read_recorded, read_watched
from audit.upstream.drift import read_parameters
from audit.upstream.installed import Installed
from audit.upstream.judge import build_records, find_drifts
from audit.upstream.survey import survey
from coordexp.spec import contracts_root

ROOT = Path(__file__).resolve().parents[2]
WATCHED = read_watched(contracts_root())
RECORDED = {package.name: read_recorded(contracts_root(), package) for package in WATCHED.packages}
PACKAGES = [name for name, recorded in RECORDED.items() if recorded]
CALLABLE = {"function", "method", "classmethod", "staticmethod"}
# Compiled: the stub, which the reader goes by, names a parameter otherwise than the library does.
STUBS_DIFFER = {"tokenizers.pre_tokenizers.PreTokenizer.pre_tokenize_str": ["self", "s"]}
# Importing these imports the rollout engine as well, which takes 20 s.
ENGINE = ("swift.pipelines.infer.", "swift.rlhf_trainers.")


@pytest.fixture(scope="session")
def real():
    """One survey of this checkout and of what is installed."""
    return survey(ROOT, contracts_root(), Installed())


@pytest.mark.invariant("UP-001", "UP-002")
@pytest.mark.parametrize("package", PACKAGES)
def test_an_installed_package_is_as_recorded(real, package):
    if package in real.skipped:
        pytest.skip(f"{package} is not installed: {real.skipped[package]}")
    drifts = [str(drift) for drift in find_drifts(real) if drift.package == package]
    assert drifts == [], "\n".join([*drifts, "deliberate? python -m audit.upstream --accept"])


@pytest.mark.invariant("UP-001")
def test_no_package_outside_the_contracts_disagrees(real):
    assert [str(drift) for drift in find_drifts(real) if drift.package not in PACKAGES] == []


@pytest.mark.invariant("UP-005")
def test_accepting_the_present_tree_would_change_nothing(real):
    assert {name: dict(entry.symbols) for name, entry in build_records(real).items()} == {
        name: dict(entry.symbols) for name, entry in real.recorded.items()
    }


@pytest.mark.invariant("UP-004")
def test_what_the_trainer_overrides_is_recorded_where_upstream_defines_it(real):
    symbols = RECORDED["swift"].symbols
    assert symbols["swift.trainers.Seq2SeqTrainer.log"]["lives"] == "swift.trainers.mixin.SwiftMixin.log"
    place = symbols["swift.trainers.Seq2SeqTrainer.get_batch_samples"]["lives"]
    assert place == "transformers.trainer.Trainer.get_batch_samples"
    overridden = {
        use.symbol
        for uses in real.wanted.values()
        for use in uses
        if use.symbol.startswith("swift.trainers.Seq2SeqTrainer.") and use.how == "overrides it"
    }
    assert {"swift.trainers.Seq2SeqTrainer.training_step", "swift.trainers.Seq2SeqTrainer._save"} <= overridden
    assert overridden <= set(symbols)


@pytest.mark.invariant("UP-006")
def test_the_optimizer_wiring_is_recorded_with_its_content():
    wiring = {
        "transformers": ["get_decay_parameter_names", "get_optimizer_cls_and_kwargs", "create_optimizer"],
        "swift": [
            "optimizers.base.OptimizerCallback.create_optimizer",
            "optimizers.multimodal.MultimodalOptimizerCallback.create_optimizer",
            "trainers.Seq2SeqTrainer.create_optimizer_and_scheduler",
        ],
    }
    for package, names in wiring.items():
        prefix = "transformers.Trainer." if package == "transformers" else "swift."
        assert all(RECORDED[package].symbols[prefix + name].get("body") for name in names)


@pytest.mark.invariant("UP-006")
def test_weight_decay_leaves_out_biases_and_norms():
    from torch import nn
    from transformers import Trainer

    model = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 2), nn.LayerNorm(2))
    assert set(Trainer.get_decay_parameter_names(None, model)) == {"0.weight", "1.weight"}


@pytest.mark.invariant("UP-006")
def test_the_optimizer_s_settings_come_from_the_arguments(tmp_path):
    import torch
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), learning_rate=0.5, adam_beta1=0.7, adam_beta2=0.8, use_cpu=True)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    assert kind is torch.optim.AdamW
    assert (settings["lr"], settings["betas"], settings["eps"]) == (0.5, (0.7, 0.8), 1e-8)


@pytest.mark.invariant("UP-009")
def test_every_key_that_is_handed_to_ms_swift_is_a_recorded_field():
    from coordexp.config import ConfigError, load_config
    from coordexp.training.arguments import swift_keyword_arguments

    handed: set[str] = set()
    known: set[str] = set()
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        try:
            config = load_config(path)
        except ConfigError:
            continue  # a base without a model; the shipped configs have their own tests
        handed |= swift_keyword_arguments(config, Path("model"), 1).keys()
        known |= {
            field.name for part in (config.training, config.tuner, config.data) for field in dataclasses.fields(part)
        }
    prefix = "swift.arguments.SftArguments."
    records = RECORDED["swift"].symbols.items()
    fields = {
        name.removeprefix(prefix) for name, record in records if name.startswith(prefix) and record["kind"] == "field"
    }
    assert len(handed) > 60
    assert handed - {"optimizer"} <= fields
    assert fields <= handed | known


@pytest.mark.invariant("UP-002")
@pytest.mark.parametrize(
    "package", ["torch", "torchvision", "transformers", "tokenizers", "peft", "safetensors", "swift"]
)
def test_the_reader_sees_the_signatures_that_python_sees(package):
    compared = 0
    for symbol, record in RECORDED[package].symbols.items():
        if record["kind"] in CALLABLE and isinstance(record["signature"], str) and not symbol.startswith(ENGINE):
            parameters = _inspected(symbol)
            read = read_parameters(record["signature"])[1 if record["kind"] == "classmethod" else 0 :]
            if parameters is not None:
                names = [parameter.name for parameter in read]
                assert names == STUBS_DIFFER.get(symbol, parameters), symbol
                compared += 1
    assert compared > 0


def _inspected(symbol: str) -> list[str] | None:
    """Names of the parameters as the imported object has them; None for compiled code, which has none to show."""
    place, *rest = symbol.split(".")
    found = importlib.import_module(place)
    for name in rest:
        place += f".{name}"
        found = getattr(found, name) if hasattr(found, name) else importlib.import_module(place)
    try:
        parameters = inspect.signature(found).parameters.values()
    except ValueError:
        return None
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    mangled = f"_{symbol.split('.')[-2]}__"
    return [
        stars.get(p.kind, "") + (f"__{p.name.removeprefix(mangled)}" if p.name.startswith(mangled) else p.name)
        for p in parameters
    ]


@pytest.mark.invariant("UP-002")
def test_the_routes_of_the_rollout_server_are_recorded():
    routes = RECORDED["swift"].symbols["swift.pipelines.infer.rollout.SwiftRolloutDeploy._register_rl_rollout_app"][
        "routes"
    ]
    guard = "dependencies=[Depends(self._require_api_key())]"
    assert {
        "GET /health/": "health",
        "GET /get_world_size/": f"get_world_size ({guard})",
        "POST /infer/": f"infer (response_model=None, {guard})",
        "POST /init_communicator/": f"init_communicator ({guard})",
        "POST /update_named_param/": f"update_named_param ({guard})",
        "POST /reset_encoder_cache/": f"reset_encoder_cache ({guard})",
        "POST /process_weights_after_loading/": f"process_weights_after_loading ({guard})",
    }.items() <= routes.items()


@pytest.mark.invariant("UP-002")
def test_both_logits_processor_interfaces_are_recorded():
    symbols = RECORDED["vllm"].symbols
    first, second = "vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor.interface"
    assert symbols[f"{first}.LogitsProcessor.update_state"]["signature"] == "(self, batch_update)"
    assert list(symbols[f"{first}.BatchUpdate"]["fields"]) == ["batch_size", "removed", "added", "moved"]
    assert symbols[f"{second}.LogitsProcessor.add_request"]["signature"] == "(self, req_idx, sampling_params)"
    assert symbols[f"{second}.LogitsProcessor.apply"]["signature"] == "(self, logits, ctx)"
    assert symbols["vllm.config.VllmConfig.use_v2_model_runner"]["body"]
    abstract = ["__init__", "apply", "is_argmax_invariant", "update_state"]
    assert symbols[f"{first}.LogitsProcessor"]["abstract"] == abstract
    assert symbols[f"{second}.LogitsProcessor"]["abstract"] == ["apply"]
    assert list(symbols[f"{first}.MoveDirectionality"]["members"]) == ["UNIDIRECTIONAL", "SWAP"]
    assert symbols[f"{first}.interface.MovedRequest"]["value"] == "tuple[int, int, MoveDirectionality]"


@pytest.mark.invariant("UP-002")
def test_the_fields_of_a_rollout_request_are_recorded_with_their_defaults():
    fields = RECORDED["swift"].symbols["swift.infer_engine.protocol.RequestConfig"]["fields"]
    assert fields["max_tokens"] == "Optional[int] = None"
    assert fields["return_details"] == "bool = False"
    request = RECORDED["swift"].symbols["swift.infer_engine.protocol.RolloutInferRequest"]["fields"]
    assert request["images"] == "List[str] = list()"
    assert next(iter(request)) == "messages"
    for name in ("RequestConfig.__post_init__", "RolloutInferRequest.__post_init__", "RolloutOutput.model_post_init"):
        assert RECORDED["swift"].symbols[f"swift.infer_engine.protocol.{name}"]["body"]
    assert RECORDED["swift"].symbols["swift.pipelines.infer.rollout.SwiftRolloutDeploy.infer"]["body"]


@pytest.mark.invariant("UP-011")
@pytest.mark.parametrize(
    ("package", "symbol", "part"),
    [
        ("transformers", "PreTrainedConfig.get_text_config", "signature"),
        ("transformers", "PreTrainedConfig._attn_implementation", "kind"),
        ("transformers", "Qwen2TokenizerFast.SPECIAL_TOKENS_ATTRIBUTES", "value"),
        ("transformers", "Qwen2TokenizerFast.__getattr__", "body"),
        ("transformers", "Qwen2TokenizerFast.chat_template", "kind"),
        ("transformers", "Qwen2TokenizerFast.name_or_path", "kind"),
        ("transformers", "models.qwen3_vl.modeling_qwen3_vl.Qwen3VLCausalLMOutputWithPast", "fields"),
        ("tokenizers", "normalizers.Normalizer.normalize_str", "signature"),
        ("tokenizers", "pre_tokenizers.PreTokenizer.pre_tokenize_str", "signature"),
        ("torch", "nn.Module.register_forward_hook", "signature"),
        ("torch", "nn.Module.load_state_dict", "signature"),
        ("torch", "autograd.function.FunctionCtx.save_for_backward", "signature"),
        ("torch", "autograd.function.FunctionCtx.mark_non_differentiable", "signature"),
        ("torch", "_C._FunctionBase.needs_input_grad", "kind"),
        ("torch", "Tensor.scatter_add_", "signature"),
        ("torch", "Tensor.index_add_", "signature"),
        ("torch", "Tensor.addmm_", "signature"),
        ("torch", "distributed.run.get_args_parser", "body"),
    ],
)
def test_what_is_called_on_objects_is_recorded(package, symbol, part):
    assert any(f"{package}.{symbol}" in watch.symbols for watch in WATCHED.watches)
    assert RECORDED[package].symbols[f"{package}.{symbol}"][part]


@pytest.mark.invariant("UP-011")
def test_the_hidden_states_are_read_from_a_recorded_field():
    place = "transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLCausalLMOutputWithPast"
    assert RECORDED["transformers"].symbols[place]["fields"]["logits"] == "torch.FloatTensor | None = None"


@pytest.mark.invariant("UP-011")
def test_every_tensor_method_of_the_vocabulary_pass_is_recorded():
    import torch

    tree = ast.parse((ROOT / "coordexp/losses/vocab.py").read_text(encoding="utf-8"))
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and hasattr(torch.Tensor, node.func.attr)
    }
    recorded = {name.removeprefix("torch.Tensor.") for name in RECORDED["torch"].symbols}
    assert len(called) > 10
    assert called <= recorded


@pytest.mark.invariant("UP-011")
def test_the_launcher_s_options_are_torchrun_s():
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(["--standalone", "--nproc-per-node", "2", "-m", "module", "--config", "c"])
    assert (options.standalone, options.nproc_per_node, options.module) == (True, "2", True)
    assert options.training_script_args == ["--config", "c"]


@pytest.mark.invariant("UP-007")
def test_the_names_that_moved_are_watched_for_their_absence(real):
    assert {"swift.llm", "swift.arguments.SftArguments.train_type"} <= set(WATCHED.absent)
    assert real.absent_now == ()


@pytest.mark.invariant("UP-003")
def test_every_watch_leads_to_a_place_of_the_project(real):
    for watch in WATCHED.watches:
        uses = real.users(watch.symbols[0])
        assert any(use.how == f"relies on it: {watch.why}" for use in uses)


@pytest.mark.invariant("UP-001")
def test_every_direct_import_of_a_package_under_contract_is_seen(real):
    """Counted by a plainer reader: each `from package import name` of the runtime has a record that stands for it."""
    seen = {(use.file, use.line) for uses in real.wanted.values() for use in uses}
    names = {package.name for package in WATCHED.packages}
    missed = []
    for path in sorted((ROOT / "coordexp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in names:
                place = (path.relative_to(ROOT).as_posix(), node.lineno)
                missed += [place] if place not in seen else []
    assert missed == []
