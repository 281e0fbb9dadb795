"""Running a study: options, search space, Ray Tune driver. What was found is judged in ``studies``."""
