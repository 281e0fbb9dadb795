"""The training loop, its loader, checkpoints and Ray Train workers."""
