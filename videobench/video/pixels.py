"""Frames -> model input: resized and cropped as uint8 on the host, rescaled and normalised on the device.

Bit-equal to LlavaNextVideoVideoProcessor of transformers (test_pixels.py), without torchvision.
"""

import numpy as np
import torch
import torch.nn.functional as F

from videobench.video.spec import PixelSpec


def resize_and_crop(frames: np.ndarray, spec: PixelSpec) -> torch.Tensor:
    """uint8 (F, height, width, 3) -> contiguous uint8 (F, 3, crop_height, crop_width) on the host."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)  # a view in channels-last layout, which torch resizes fastest
    height, width = spec.resized(*frames.shape[1:3])
    if (height, width) != frames.shape[1:3]:
        pixels = F.interpolate(pixels, size=(height, width), mode=spec.resample, align_corners=False, antialias=True)
    # Half of the rest, rounded down: torchvision's center_crop differs where the rest is 3 mod 4.
    top, left = (height - spec.crop_height) // 2, (width - spec.crop_width) // 2
    return pixels[:, :, top : top + spec.crop_height, left : left + spec.crop_width].contiguous()


def normalise(pixels: torch.Tensor, spec: PixelSpec, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (..., 3, h, w) on any device -> (x - mean * 255) / (std * 255) there, computed in float32, cast last."""
    # Mean and deviation carry the factor; subtract, then divide. Any other order differs in the last bits.
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(3, 1, 1) * (1.0 / spec.rescale_factor)
        for values in (spec.mean, spec.std)
    )
    return pixels.float().sub_(mean).div_(std).to(dtype)
