"""What a study found: its records, statistics, figures and report. Knows nothing of training, torch or Ray."""
