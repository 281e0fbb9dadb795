"""The statistics behind a verdict: pairing of runs, regret bounds, interim analyses, comparisons of settings."""
