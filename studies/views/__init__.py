"""What is shown of a study: curves, summaries, wording, image strips. Decides nothing."""
