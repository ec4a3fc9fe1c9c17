"""Python imports this at start-up when its folder is on PYTHONPATH (see `coordexp.bridges.subprocess_env`)."""

import coordexp_startup  # noqa: F401
