"""The method: images, components, masking, model, training and probes. Knows neither studies nor how they are run.

Importing this package is cheap: torch, Ray and the like are imported by the modules that need them.
"""
