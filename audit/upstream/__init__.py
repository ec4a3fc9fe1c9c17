"""What the project takes from its upstream packages, recorded in `contracts/upstream/` and compared with what is
installed. Read from source files; nothing of upstream is imported. Contract ids: UP-*."""
