"""The core mutation score: mutmut over the torch-free core, every survivor has a reason. Contract ids: SPEC-016.

`python -m audit.core` runs it; `[tool.mutmut]` of pyproject.toml says what is mutated and which tests judge.
"""
