"""README and docs name nothing that does not exist; the checker flags each kind of planted drift."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.policy.documents import documents, drift, read_checkout

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
        ("[here](docs/no_such.md)", "the link docs/no_such.md leads nowhere"),
    ],
)
def test_planted_drift_is_found(written, complaint):
    violations = drift(CHECKOUT, ROOT / "README.md", f"First line.\n{written}\n")
    assert [violation.message for violation in violations] == [complaint]
    assert violations[0].line in (2, 3)


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
        "prose may name scripts/no_such.sh when it is not code",
        "`output/run/checkpoint-1` is written, not shipped",
    ],
)
def test_true_words_are_left_alone(written):
    assert drift(CHECKOUT, ROOT / "README.md", written + "\n") == []
