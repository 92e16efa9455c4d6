"""The convolution block of the stem and of the head."""

from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval


class ConvolutionBlock(nn.Module):
    """3x3 convolution with bias, batch normalisation, ReLU: (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1):
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves, normalises, rectifies."""
        return self.norm(self.convolution(x)).relu()

    def fold(self) -> None:
        """Puts the normalisation into the convolution's weights; for inference only, and for good."""
        self.convolution = fuse_conv_bn_eval(self.convolution, self.norm)
        self.norm = nn.Identity()
