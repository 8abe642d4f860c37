"""One engine a module, each runnable in an environment of its own: it imports `lines` and its engine, nothing else."""
