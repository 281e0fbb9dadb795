"""What is trained next: the search space, proposals, the confirm phase and its rounds."""
