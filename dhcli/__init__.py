"""dh: from a folder of annotated images to a Double-Head Faster R-CNN detector."""

__version__ = "0.1.0"
