"""One trial: its specification, its training and scoring, and the worker process that runs it."""
