"""README and docs name nothing that does not exist; the checker flags each kind of planted drift."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.policy.checkout import read_checkout
from audit.policy.documents import documents, drift

pytestmark = pytest.mark.invariant("POLICY-015")

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = read_checkout(ROOT)


@pytest.mark.parametrize("path", documents(ROOT), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_names_what_exists(path):
    assert [str(violation) for violation in drift(CHECKOUT, path, path.read_text(encoding="utf-8"))] == []


def test_the_readme_and_the_architecture_are_among_the_documents():
    names = {path.relative_to(ROOT).as_posix() for path in documents(ROOT)}
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md"} <= names


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("`scripts/no_such.sh`", "scripts/no_such.sh does not exist"),
        ("```\nbash scripts/no_such.sh\n```", "scripts/no_such.sh does not exist"),
        ("    bash scripts/no_such.sh", "scripts/no_such.sh does not exist"),
        ("`configs/no_such/*.yaml`", "configs/no_such/*.yaml does not exist"),
        ("`scripts/{setup,no_such}.sh`", "scripts/{setup,no_such}.sh does not exist"),
        ("`coordexp.no_such`", "coordexp.no_such does not exist"),
        ("`coordexp.spec.no_such`", "coordexp.spec.no_such does not exist"),
        ("`coordexp.spec.schemas:no_such`", "coordexp.spec.schemas:no_such does not exist"),
        ("`python -m audit.no_such`", "audit.no_such does not exist"),
        ("`python -m audit.policy`", "audit.policy cannot be run: it has no __main__"),
        ("`python -m coordexp.entrypoints.train --no-such x`", "coordexp.entrypoints.train takes no --no-such"),
        ("`tox -e contracts,no_such`", "tox has no environment no_such"),
        ("`pytest -m no_such`", "pytest has no marker no_such"),
        ("`COORDEXP_NO_SUCH=1 tox`", "COORDEXP_NO_SUCH is not in contracts/cli/environment.yaml"),
        ("`tox run -qe no_such`", "tox has no environment no_such"),
        ("`tox -e contracts -e no_such`", "tox has no environment no_such"),
        ("`python -m no_such.module`", "no_such.module: no such module is installed"),
        ("`python -m audit.mutants --no-such`", "audit.mutants takes no --no-such"),
        ("`python -m benchmarks --no-such`", "benchmarks takes no --no-such"),
        ("`python -m coordexp.config.document --no-such`", "coordexp.config.document takes no --no-such"),
        ("`bash scripts/quickstart.sh --no-such`", "coordexp.entrypoints.quickstart takes no --no-such"),
        ("`./scripts/no_such.sh`", "scripts/no_such.sh does not exist"),
        ("`pytest tests/policy/test_documents.py::test_no_such`", "tests/policy/test_documents.py has no test_no_such"),
        ("[here](docs/no_such.md)", "the link docs/no_such.md leads nowhere"),
        ("[here](docs/architecture.md#no-such)", "the link docs/architecture.md#no-such leads to no heading"),
        ("[here](#no-such)", "the link #no-such leads to no heading"),
        ("[here]: docs/no_such.md", "the link docs/no_such.md leads nowhere"),
        ('<img src="docs/no_such.png">', "the link docs/no_such.png leads nowhere"),
        ("`training.learning_rat`", "training.learning_rat is no config key; is learning_rate meant?"),
        ("`rollout_matching.vllm.server.servers[0].port`", "rollout_matching.vllm.server.servers[0].port is no config"),
        ("`stage2_ab.no_such.*`", "stage2_ab.no_such is no config key"),
        ("`tuner.train_type: lora`", "tuner.train_type is no config key"),
        ("`custom.extra.rollout_matching`", "custom.extra.rollout_matching is no config key"),
        (
            "`stage2_ab.pipeline.objective[].config.giou_weight`",
            "stage2_ab.pipeline.objective[].config.giou_weight is no config key; is ciou_weight meant?",
        ),
        (
            "`training.eval_strategy: sometimes`",
            "training.eval_strategy: 'sometimes' is not allowed; allowed: no, steps, epoch",
        ),
        ("```yaml\ndebug:\n  enable: true\n```", "debug.enable: unknown key; did you mean enabled? "),
        ("```yaml\ndebug: a: b\n```", "the example is no YAML: mapping values are not allowed here"),
        ("`loss/struct_cee`", "loss/struct_cee is no metric; is loss/struct_ce meant?"),
        ("`loss/geo/<no_such>/x`", "loss/geo/<no_such>/x is no metric"),
        ("`rollout/no_such`", "rollout/no_such is no metric"),
        ("`no_such_word`", "nothing in the checkout is called no_such_word"),
        ("`learning_rat`", "nothing in the checkout is called learning_rat; is learning_rate meant?"),
        ("`NoSuchClass.build()`", "nothing in the checkout is called NoSuchClass"),
        ("`eval_rollout_backend`", "nothing in the checkout is called eval_rollout_backend"),
        ("```\nno_such_command --all\n```", "nothing in the checkout is called no_such_command"),
        ("`losses/struct_ce`", "losses/struct_ce is no path and no metric; is loss/struct_ce meant?"),
        ("`stages/no_such`", "stages/no_such is no path and no metric"),
        ("`src/config/loader.py`", "src/config/loader.py does not exist"),
        ("`losses/render.py`", "losses/render.py does not exist"),
        ("`tools/report.py` reports", "tools/report.py does not exist"),
        ("`data/dataset.py`", "data/dataset.py does not exist"),
        ("`./tools/report.sh`", "./tools/report.sh does not exist"),
        ("`AUDIT.md`", "no file is called AUDIT.md"),
        ("`nosuch.py`", "no file is called nosuch.py"),
        ("`../nosuch.yaml`", "../nosuch.yaml does not exist"),
        ("`python tools/report.py --all`", "tools/report.py does not exist"),
        ("`bash tools/test.sh`", "tools/test.sh does not exist"),
        ("`python scripts/lock.py cpu --no-such`", "scripts/lock.py takes no --no-such"),
        ("`make test`", "make runs nothing here: there is no Makefile"),
        ("```\n$ make test\n```", "make runs nothing here: there is no Makefile"),
        ("`cd docs && make html`", "make runs nothing here: there is no Makefile"),
        ("`conda run -n ms python -m pytest tests`", "conda runs nothing here: there is no environment.yml"),
        ("`tox --no-such`", "tox takes no --no-such"),
        ("so run tox -e no_such.", "tox has no environment no_such"),
        ("so run pytest --no-such.", "pytest takes no --no-such"),
        ("`config=x.yaml bash scripts/train.sh --no-such`", "coordexp.entrypoints.launch takes no --no-such"),
        ("`bash scripts/train.sh gpus=0`", "scripts/train.sh takes no gpus= after it"),
        ("`gpus=0 python -m coordexp.entrypoints.train`", "coordexp.entrypoints.train reads no variable gpus"),
        ("`tests/policy/test_documents.py:no_such`", "tests/policy/test_documents.py has no no_such"),
        ("`schedule.b_ratio=7`", "schedule.b_ratio: 7 is out of range"),
        ("`b_ratio=7`", "b_ratio: 7 is out of range"),
        ("`tox policy`", "tox has no command policy; an environment follows -e"),
        ("`python -m pytest tests/policy --slow`", "pytest takes no --slow"),
        ("`pytest -Z tests`", "pytest takes no -Z"),
        ("`gpu=0 config=x.yaml bash scripts/train.sh`", "scripts/train.sh reads no variable gpu"),
        ("`config=x.yaml gpu=0 bash scripts/train.sh`", "scripts/train.sh reads no variable gpu"),
        ("`gpus=0 bash scripts/setup.sh`", "scripts/setup.sh reads no variable gpus"),
        ("`NO_SUCH_THING=1 bash scripts/setup.sh`", "scripts/setup.sh reads no variable NO_SUCH_THING"),
        ("`schedule.n_softctx_iter`", "schedule.n_softctx_iter is no config key"),
        ("`channel_b.b_ratio`", "channel_b.b_ratio is no config key"),
        ("`decoding.max_new_tokens`", "decoding.max_new_tokens is no config key"),
        ("`vllm.seed`", "vllm.seed is no config key"),
        ("`servers[0].port`", "servers[0].port is no config key"),
        ("`token_ce.w1_weight`", "token_ce.w1_weight is no config key"),
        ("`schedule.b_ratio: 7`", "schedule.b_ratio: 7 is out of range"),
        ("`b_ratio: 7`", "b_ratio: 7 is out of range"),
        ("```yaml\nb_ratio: 7\n```", "b_ratio: 7 is out of range"),
        ("```yaml\nn_softctx_iter: -3\n```", "n_softctx_iter: -3 is out of range"),
        ("```yaml\nschedule:\n  b_ratio: 7\n```", "schedule.b_ratio: 7 is out of range"),
        ("```yml\ndebug:\n  enable: true\n```", "debug.enable: unknown key; did you mean enabled? "),
        ("```yaml\ntraining:\n  bf16: true\n  fp16: true\n```", "training.fp16: "),
        ("Set rollout_matching.vllm.nosuch to 3.", "rollout_matching.vllm.nosuch is no config key"),
        ("It is training.nosuch.", "training.nosuch is no config key"),
        ("| training.nosuch | 5 | loss/struct_ce |", "training.nosuch is no config key"),
        ("| training.seed | 5 | loss/nosuch |", "loss/nosuch is no metric"),
        ("**rollout/nosuch**", "rollout/nosuch is no metric"),
        ("_rollout/nosuch_, often", "rollout/nosuch is no metric"),
        ("<code>training.nosuch</code>", "training.nosuch is no config key"),
        ("<code>no_such_word</code>", "nothing in the checkout is called no_such_word"),
        ("<pre>python -m coordexp.entrypoints.nosuch</pre>", "coordexp.entrypoints.nosuch does not exist"),
        ("<pre>\nno_such_word\n</pre>", "nothing in the checkout is called no_such_word"),
        ("See docs/nosuch.md.", "docs/nosuch.md does not exist"),
        ("See nosuch.md.", "no file is called nosuch.md"),
        ("prose names scripts/no_such.sh", "scripts/no_such.sh does not exist"),
        ("With COORDEXP_NOSUCH, all is fast", "COORDEXP_NOSUCH is not in contracts/cli/environment.yaml"),
        ("Run python -m audit.mutants --no-such.", "audit.mutants takes no --no-such"),
        ("It calls coordexp.spec.no_such.", "coordexp.spec.no_such does not exist"),
        ("POLICY-999 holds", "POLICY-999 is no invariant"),
        ("asked for by AUDIT-99.1", "AUDIT-99.1 is no requirement"),
    ],
)
def test_planted_drift_is_found(written, complaint):
    violations = drift(CHECKOUT, ROOT / "README.md", f"First line.\n{written}\n")
    assert len(violations) == 1
    assert violations[0].message.startswith(complaint)
    assert violations[0].line in (2, 3, 4, 5)


@pytest.mark.parametrize(
    "written",
    [
        "`bash scripts/test.sh`",
        "`scripts/{setup,test}.sh` and `contracts/cli/*.yaml`",
        "`contracts/invariants/<area>.yaml`",
        "`coordexp.spec:check`, `coordexp.spec.schemas.check` and `audit.policy.rules:RULES`",
        "```\npython -m coordexp.entrypoints.train --config x.yaml --help\n```",
        "`tox -e contracts`, `pytest -m gpu`, `pytest -m 'not slow'`",
        "`ROOT_IMAGE_DIR=/data`, `COORDEXP_LOCK`",
        "[there](docs/architecture.md#reading-order) and [the web](https://example.org/docs/no_such.md)",
        "See docs/audit.md. And `pipeline.md`, `configs/stage1/`, or /nowhere/at/all.py and ~/.cache/x.json.",
        "either/or, yes/no, data/train, i.e. a loss/weight-free word, and e.g. model.fit(x)",
        "`report.html`, `run_manifest.json`, `tox.ini`, `CONTRIBUTING.md`, `../base.yaml` and `.audit/report.json`",
        "`data/raw/train/annotations.json`, `images/000000.png`, `<split>/annotations.json`",
        "`config=configs/stage1/smoke/shapes.yaml gpus=0,1 bash scripts/train.sh`",
        "`gpus=0 config=x.yaml python -m coordexp.entrypoints.launch` and `tox -e contracts -r`",
        "`audit/policy/documents.py:drift`, `audit/policy/documents.py:12` and `b_ratio=0.5`",
        "`COORDEXP_LOCK=cpu bash scripts/setup.sh` and `coord_offset.safetensors`",
        "`python scripts/lock.py cpu --upgrade`, `tox run -e lint`, `tox -e contracts -- -k boxes --no-such`",
        "`python -m pytest tests/policy -k boxes -x --invariant PACK-002 -n 2 --dist worksteal`, `pytest -qx`",
        "`schedule.b_ratio`, `vllm.server.servers[].base_url`, `servers[0].base_url`, `decoding.temperature: 0.5`",
        "`token_ce.desc_ce_weight`, `coord_reg.w1_weight`, `bbox_geo.ciou_weight` and `coord_offset.json`",
        "`b_ratio: 0.5`, `tier: cpu`, and one must make sure; tox policy, conda users and docker people are words here",
        "```yaml\ntraining: {bf16: true, fp16: false}\n```",
        "```yaml\nb_ratio: 0.5\nschedule: {b_ratio: 0.25}\n```",
        "```yaml\nstage2_ab:\n  schedule:\n    b_ratio: 0.5\n```",
        "Set training.seed to 3; **loss/struct_ce** falls, <code>training.seed</code> stays.",
        "It is run by coordexp.entrypoints.train.",
        "<pre>python -m coordexp.entrypoints.train --help</pre>",
        "<pre>\nbash scripts/test.sh\n</pre>\nNo such thing as code after it.",
        "`output/run/checkpoint-1` is written, not shipped",
        "`training.seed`, `training.eval_strategy: steps`, `custom.coord_soft_ce_w1.*` and `custom.extra.note`",
        "`rollout_matching.vllm.server.servers[].group_port`, `stage2_ab.pipeline.objective[0].config.ciou_weight`",
        "`config.training.seed`, `model.safetensors`, `records.jsonl` and `model.generate()`",
        "```yaml\nextends: ../base.yaml\ndebug: {enabled: true}\n```",
        "```yaml\nname: anything\n```",
        "`loss/struct_ce`, `loss/geo/<term>`, `coord_diag/*` and `data/train.jsonl`",
        "`python -m pytest tests/policy/test_documents.py::test_planted_drift_is_found`",
        "`python -m audit.mutants --changed`",
        "`<|coord_12|>`, `bbox_2d`, `coordexp/config` and `output/anywhere/tb`",
        "POLICY-015 and AUDIT-10.2",
        "# A heading: `code`, and more\n[up](#a-heading-code-and-more)",
    ],
)
def test_true_words_are_left_alone(written):
    assert drift(CHECKOUT, ROOT / "README.md", written + "\n") == []
