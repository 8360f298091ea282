"""The techniques: tensors in, maps or images out. No paths, options or printing."""

from .fooling_image import FoolingImage
from .saliency_map import SaliencyMap

__all__ = ["ClassVisualization", "FoolingImage", "GradCam", "SaliencyMap"]
