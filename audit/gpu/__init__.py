"""What GPU machines showed: a run of the gpu tier becomes a record, `python -m audit.gpu --accept` commits it."""
