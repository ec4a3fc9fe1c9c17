"""The words of the loader's errors, as an author of a configuration reads them."""

from __future__ import annotations

import pytest

from coordexp.config import ConfigError, load_config

STAGE1_OF_THE_ORIGINAL = """\
global_max_length: 12000
model: {model: checkpoint, attn_impl: flash_attention_2, torch_dtype: bfloat16}
template: {template: qwen3_vl, truncation_strategy: right, max_pixels: 1572864999}
data: {dataset: [dummy], val_dataset: [dummy], dataset_num_proc: 8, dataloader_num_workers: 16}
tuner:
  train_type: lora
  use_dora: true
training:
  output_dir: out
  run_name: run
  logging_dir: tb
  save_safetensors: true
  optimizer: multimodal_coord_offset
  packing_buffer: 512
  learning_rate: 2e-4
  eval_strategy: no
custom:
  train_jsonl: train.jsonl
  augmentation: {enabled: false}
  token_type_metrics: {enabled: true}
  extra: {prompt_variant: coco_80}
"""
STAGE2_OF_THE_ORIGINAL = """\
global_max_length: 12000
model: {model: checkpoint}
data: {dataset: [dummy], val_dataset: []}
training: {output_dir: out, run_name: run, logging_dir: tb, effective_batch_size: 64}
stage2_ab:
  schedule: {pattern: [A, A, B]}
  text_gate_weigth: 1.0
  channel_b: {reordered_gt_sft: true}
  bbox_ciou_weight: 0.5
  pipeline:
    objective:
      - {name: token_cee}
      - {name: bbox_geo, config: {giou_weight: 1.0}}
      - {name: bbox_geo}
custom:
  train_jsonl: train.jsonl
  trainer_variant: stage2_ab_training
  coord_tokens: {enabled: true, skip_bbox_norm: false}
  extra: {rollout_matching: {decode_batch_size: 4}}
rollout_matching:
  rollout_backend: vllm
  decode_mode: greedy
  max_new_tokens: 12000
  vllm:
    max_model_len: 11000
    gpu_memory_utilization: 0.85
    server:
      servers:
        - {base_url: "127.0.0.1:8000", group_port: 99999, unknown_flag: 1}
debug: {enabled: false, enabled: true}
"""


@pytest.mark.invariant("CONFIG-021")
@pytest.mark.parametrize("text", [STAGE1_OF_THE_ORIGINAL, STAGE2_OF_THE_ORIGINAL], ids=["stage1", "stage2"])
def test_each_difference_of_a_research_config_is_explained_in_a_line(tmp_path, text, snapshot):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    report = str(caught.value).replace(f"{tmp_path}/", "")
    assert len(report.splitlines()) == 1 + len(caught.value.problems)
    assert report == snapshot
