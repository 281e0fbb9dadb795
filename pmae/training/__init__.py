"""The training loop and what it needs: batches, augmentation, checkpoints, devices, Ray Train workers."""
