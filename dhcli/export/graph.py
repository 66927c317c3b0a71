"""The detector as one graph, for one image of any size."""

from __future__ import annotations

from torch import Tensor, nn

from dhcli.models.contract import Detector
from dhcli.ops.batch import ImageBatch


class DetectorGraph(nn.Module):
    """What is exported.

    in   pixels    (1, 3, H, W) uint8 or float32 RGB 0–255, zeros right of and below the image
         size      (2,) int64 height, width of the image within the padding
         original  (2,) int64 height, width before it was resized; `size` again for boxes in
                   pixels of the input
    out  boxes     (D, 4) float32 xyxy in pixels of the original, best first
         scores    (D,) float32
         labels    (D,) int64 in 0…K-1
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, pixels: Tensor, size: Tensor, original: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        [[found]] = self.detector.detect(ImageBatch(pixels, size[None], original[None]))
        return found.boxes, found.scores, found.labels
