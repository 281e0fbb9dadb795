"""What a study will do, what it costs and what it can decide, before anything is trained."""
