"""Stage 2 beside stage 1 continued, for the same CPU seconds and for the same records. See `__main__`."""
