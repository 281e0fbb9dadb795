"""A study's summaries and wording. Decides nothing."""
