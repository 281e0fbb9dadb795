"""Images for training and probing: ``load_images(source, ...)`` returns an :class:`ImageSet`."""

from pmae.data.imageset import ImageSet
from pmae.data.load import load_images

__all__ = ["ImageSet", "load_images"]
