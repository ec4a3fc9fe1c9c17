"""What each reader makes of a checkpoint's folder alone: greedy answers in float32 on pictures.

`python -m tests.plugins.folder_readers JOB` runs vLLM in a process of its own: an engine changes its process. JOB is a
JSON file with `folders`, `pictures`, `messages` and `tokens`; answers by folder come into `told.json` beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 96
Answers = list[list[int]]


def turns(text: str, picture: Any) -> list[dict[str, Any]]:
    """The conversation in the form of chat templates."""
    return [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]


def transformers_answers(folder: Path, pictures: Sequence[Path], text: str) -> Answers:
    """By `from_pretrained` of the folder: model, processor, chat template and generation config."""
    from transformers import AutoModelForImageTextToText

    return model_answers(AutoModelForImageTextToText.from_pretrained(folder), folder, pictures, text)


def model_answers(model: torch.nn.Module, folder: Path, pictures: Sequence[Path], text: str) -> Answers:
    """By a model in hand, with the processor of `folder`."""
    from transformers import AutoProcessor

    processor, model = AutoProcessor.from_pretrained(folder), model.eval()
    answers = []
    for picture in pictures:
        chat = turns(text, {"type": "image"})
        prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[prompt], images=[Image.open(picture).convert("RGB")], return_tensors="pt")
        given = inputs["input_ids"].shape[1]
        written = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)  # type: ignore[operator]
        answers.append(written[0, given:].tolist())
    return answers


def vllm_answers(folders: Sequence[Path], pictures: Sequence[Path], text: str, work: Path) -> list[Answers]:
    """By an engine over each folder, one after the other."""
    from coordexp.bridges import subprocess_env

    work.mkdir(parents=True, exist_ok=True)
    job = work / "job.json"
    told = {"folders": [str(f) for f in folders], "pictures": [str(p) for p in pictures], "text": text}
    job.write_text(json.dumps(told), encoding="utf-8")
    environment = {
        **os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.folder_readers", str(job)],
        env=subprocess_env(environment), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[Answers] = json.loads((work / "told.json").read_text(encoding="utf-8"))
    return answers


def main(job: Path) -> None:
    from vllm import LLM, SamplingParams

    told = json.loads(job.read_text(encoding="utf-8"))
    pictures = [Image.open(path).convert("RGB") for path in told["pictures"]]
    chats = [turns(told["text"], {"type": "image_pil", "image_pil": picture}) for picture in pictures]
    answers, engines = [], []
    for folder in told["folders"]:
        engine = LLM(
            model=folder, max_model_len=512, dtype="float32", enforce_eager=True, max_num_seqs=8,
            limit_mm_per_prompt={"image": 1, "video": 0},
        )  # fmt: skip
        engines.append(engine)  # the first one's end would take the process group from the next
        written = engine.chat(chats, SamplingParams(max_tokens=TOKENS, temperature=0.0), use_tqdm=False)
        answers.append([list(output.outputs[0].token_ids) for output in written])
    (job.parent / "told.json").write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
