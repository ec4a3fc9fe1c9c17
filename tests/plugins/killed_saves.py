"""A run that ends in the middle of writing its second checkpoint: `python -m tests.plugins.killed_saves HOW CONFIG`.

HOW is a signal's name, which the process sends to itself, or `full`: from then on no file may grow beyond a few bytes,
as on a disk without room. Weights lie in the folder by then, processor and notes not yet.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import Qwen3VLProcessor

SECOND = 2


def main(how: str, config: str) -> int:
    from coordexp.entrypoints.train import main as train

    save, saved = Qwen3VLProcessor.save_pretrained, []

    def save_or_end(self: Any, folder: Any, *args: Any, **kwargs: Any) -> Any:
        saved.append(folder)
        if len(saved) == SECOND:
            assert any(Path(folder).glob("*.safetensors"))
            if how == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            else:
                os.kill(os.getpid(), getattr(signal, how))
        return save(self, folder, *args, **kwargs)

    Qwen3VLProcessor.save_pretrained = save_or_end
    return train(["--config", config])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
