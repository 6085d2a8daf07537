"""Layers of convolutional networks on images with samples first and channels last, batched over models.

Images are (B, m, H, W, C), contiguous: B models, m samples. Going back, m counts pairs of a sample and a cotangent.
One-dimensional signals are images of height one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import skip_init

Pair = tuple[int, int]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Convolution:
    """A linear map of patches of an image, the same for every patch.

    A dense layer is the case of one patch, the whole image.

    Parameters
    ----------
    shape : (H, W, C)
        Of the input.
    n_filters : int
        O, channels of the output.
    kernel, stride, padding : (vertical, horizontal)
        In pixels.
    start : int
        Where the parameters begin in the flat vector: weight (O, kernel height, kernel width, C), then bias (O,).

    Notes
    -----
    With the patches as rows of a matrix (n_positions, fan_in), the outputs are ``patches @ weight.T + bias``, where
    weight is (O, fan_in): "im2col" (Chellapilla, Puri & Simard 2006, High performance convolutional neural networks
    for document processing).
    """

    shape: Shape
    n_filters: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    start: int = 0

    @property
    def padded(self) -> Pair:
        """Height and width of the input with its padding."""
        return self.shape[0] + 2 * self.padding[0], self.shape[1] + 2 * self.padding[1]

    @property
    def grid(self) -> Pair:
        """Positions of the kernel, vertical and horizontal; zero or less where it does not fit."""
        return (
            (self.padded[0] - self.kernel[0]) // self.stride[0] + 1,
            (self.padded[1] - self.kernel[1]) // self.stride[1] + 1,
        )

    @property
    def output_shape(self) -> Shape:
        """Height, width and channels of the output."""
        return *self.grid, self.n_filters

    @property
    def n_positions(self) -> int:
        """Number L of patches."""
        return self.grid[0] * self.grid[1]

    @property
    def fan_in(self) -> int:
        """Number q of pixels times channels in a patch."""
        return self.kernel[0] * self.kernel[1] * self.shape[2]

    @property
    def fan_out(self) -> int:
        """Number of filters, as the start vectors call it."""
        return self.n_filters

    @property
    def weight(self) -> slice:
        """Place of the weights in the flat parameter vector."""
        return slice(self.start, self.start + self.n_filters * self.fan_in)

    @property
    def bias(self) -> slice:
        """Place of the biases in the flat parameter vector."""
        return slice(self.weight.stop, self.weight.stop + self.n_filters)

    @property
    def is_dense(self) -> bool:
        """Whether the only patch is the image itself."""
        return self.kernel == self.shape[:2] and self.padding == (0, 0)

    def patches(self, a: Tensor, out: Tensor | None = None) -> Tensor:
        """Patches (B, n, L, q) of images (B, n, H, W, C); written to ``out`` unless they are the images themselves."""
        if self.is_dense:
            return a.reshape(*a.shape[:2], 1, self.fan_in)
        windows = _windows(_pad(a, self.padding, self.padding), self.kernel, self.stride)
        shape = (*a.shape[:2], self.n_positions, self.fan_in)
        if out is None:
            out = a.new_empty(shape)
        out.view(windows.shape).copy_(windows)
        return out

    def pixels(self) -> Tensor:
        """Index (L q,) of the pixels of all patches in a flat image (C, H, W), C H W for those of the padding."""
        height, width, channels = self.shape
        index = torch.arange(height * width * channels, device="cpu").view(channels, height, width)
        vertical, horizontal = self.padding
        index = torch.nn.functional.pad(
            index, (horizontal, horizontal, vertical, vertical), value=height * width * channels
        )
        return _windows(index.permute(1, 2, 0)[None, None], self.kernel, self.stride).reshape(-1)

    def back(self, weight: Tensor, d: Tensor) -> Tensor:
        """Carry cotangents of the output (B, m, *output_shape) to the input (B, m, H, W, C); weight (B, O, q).

        Notes
        -----
        Input pixel ``s x + p`` (stride s, phase p < s) is reached from the positions ``x - j`` through the kernel's
        pixel ``s j + p``. So the cotangents of all s phases of a pixel x are one linear map of a patch of ``d``, the
        positions ``x - j``: a convolution of stride one whose output channels are the phases ("sub-pixel
        convolution", Shi et al. 2016, Is the deconvolution layer the same as a convolutional layer?).
        """
        if self.is_dense:
            return torch.bmm(d.flatten(2), weight).view(*d.shape[:2], *self.shape)
        taps, size = _steps(self.kernel, self.stride), _steps(self.padded, self.stride)
        before = (taps[0] - 1, taps[1] - 1)
        after = (size[0] - self.grid[0], size[1] - self.grid[1])
        columns = _windows(_pad(d, before, after), taps, (1, 1)).reshape(d.shape[0], -1, taps[0] * taps[1] * d.shape[4])
        fine = torch.bmm(columns, self._phases(weight, taps))
        fine = fine.view(*d.shape[:2], *size, *self.stride, self.shape[2]).transpose(3, 4)
        fine = fine.reshape(*d.shape[:2], size[0] * self.stride[0], size[1] * self.stride[1], self.shape[2])
        top, left = self.padding
        return fine[:, :, top : top + self.shape[0], left : left + self.shape[1]]

    def module(self, n_axes: int) -> torch.nn.Module:
        """The layer in ``torch.nn``, with unset parameters: convolution over 1 or 2 axes, or dense for 0."""
        # skip_init: the modules would draw from the caller's random numbers
        options: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
        if n_axes == 0:
            return skip_init(torch.nn.Linear, self.fan_in, self.n_filters, **options)
        kind = torch.nn.Conv1d if n_axes == 1 else torch.nn.Conv2d
        sizes = (self.kernel[-n_axes:], self.stride[-n_axes:], self.padding[-n_axes:])
        return skip_init(kind, self.shape[2], self.n_filters, *sizes, **options)

    def _phases(self, weight: Tensor, taps: Pair) -> Tensor:
        """The weights (B, O, q) as those of the convolution in :meth:`back`: (B, taps O, phases C)."""
        (height, width), (vertical, horizontal) = self.kernel, self.stride
        kernel = weight.view(len(weight), self.n_filters, height, width, self.shape[2])
        kernel = _pad(kernel, (0, 0), (taps[0] * vertical - height, taps[1] * horizontal - width))
        kernel = kernel.view(len(weight), self.n_filters, taps[0], vertical, taps[1], horizontal, self.shape[2])
        kernel = kernel.flip(2, 4).permute(0, 2, 4, 1, 3, 5, 6)
        return kernel.reshape(len(weight), taps[0] * taps[1] * self.n_filters, -1)


class Pooling(Protocol):
    """Reduction of non-overlapping windows; what the last windows leave over at the edges is dropped."""

    def __init__(self, shape: Shape, size: Pair): ...

    output_shape: Shape

    def select(self, a: Tensor) -> Tensor | None:
        """What of images (B, n, H, W, C) decides how they are pooled, if anything: a (B, n, ...) tensor."""

    def pool(self, a: Tensor, selected: Tensor | None) -> Tensor:
        """Pool images (B, n, H, W, C) or derivatives of them to (B, n, *output_shape)."""

    def values(self, images: Tensor) -> Tensor:
        """Pool images (n, C, H, W) where no derivative is wanted."""

    def back(self, d: Tensor, selected: Tensor | None) -> Tensor:
        """Carry cotangents (B, n, R, *output_shape) to the input (B, n, R, H, W, C)."""

    def module(self, n_axes: int) -> torch.nn.Module: ...


class _Windows:
    """What both poolings share: the windows of an image of ``shape`` (H, W, C)."""

    def __init__(self, shape: Shape, size: Pair):
        self.shape, self.size = shape, size
        self.output_shape = (shape[0] // size[0], shape[1] // size[1], shape[2])

    def _split(self, images: Tensor) -> Tensor:
        """View images (..., H, W, C) as (..., H', height, W', width, C)."""
        (rows, columns, _), (height, width) = self.output_shape, self.size
        used = images[..., : rows * height, : columns * width, :]
        return used.unflatten(-2, (columns, width)).unflatten(-4, (rows, height))


class AveragePooling(_Windows):
    """Mean of every window."""

    def select(self, a: Tensor) -> Tensor | None:
        return None

    def pool(self, a: Tensor, selected: Tensor | None) -> Tensor:
        return self._split(a).mean((-4, -2))

    def values(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, self.size)

    def back(self, d: Tensor, selected: Tensor | None) -> Tensor:
        below = d.new_zeros(*d.shape[:3], *self.shape)
        share = d * (1 / (self.size[0] * self.size[1]))
        self._split(below).copy_(share.unsqueeze(-2).unsqueeze(-4))
        return below

    def module(self, n_axes: int) -> torch.nn.Module:
        return torch.nn.AvgPool1d(self.size[1]) if n_axes == 1 else torch.nn.AvgPool2d(self.size)


class MaxPooling(_Windows):
    """Largest number of every window; the first one in reading order where several are."""

    def select(self, a: Tensor) -> Tensor:
        """Index (B, n, H', W', C, 1) of the largest pixel of a window."""
        return self._candidates(a).argmax(-1, keepdim=True)

    def pool(self, a: Tensor, selected: Tensor | None) -> Tensor:
        assert selected is not None
        return self._candidates(a).gather(-1, selected).squeeze(-1)

    def values(self, images: Tensor) -> Tensor:
        return torch.nn.functional.max_pool2d(images, self.size)

    def back(self, d: Tensor, selected: Tensor | None) -> Tensor:
        assert selected is not None
        height, width = self.size
        index = selected.unsqueeze(2).expand(*d.shape, 1)
        spread = d.new_zeros(*d.shape, height * width).scatter_(-1, index, d.unsqueeze(-1))
        below = d.new_zeros(*d.shape[:3], *self.shape)
        # (..., H', W', C, height, width) -> (..., H', height, W', width, C)
        self._split(below).copy_(spread.unflatten(-1, self.size).movedim((-2, -1), (-4, -2)))
        return below

    def module(self, n_axes: int) -> torch.nn.Module:
        return torch.nn.MaxPool1d(self.size[1]) if n_axes == 1 else torch.nn.MaxPool2d(self.size)

    def _candidates(self, a: Tensor) -> Tensor:
        """Pixels of every window, (B, n, H', W', C, height width)."""
        return self._split(a).movedim((-4, -2), (-2, -1)).flatten(-2)


POOLINGS: dict[str, type[Pooling]] = {"average": AveragePooling, "max": MaxPooling}


def _steps(length: Pair, stride: Pair) -> Pair:
    """Multiples of the stride that cover a length, in both directions."""
    return -(-length[0] // stride[0]), -(-length[1] // stride[1])


def _pad(images: Tensor, before: Pair, after: Pair) -> Tensor:
    """Zeros around (..., H, W, C): ``before`` above and left, ``after`` below and right."""
    if before == after == (0, 0):
        return images
    return torch.nn.functional.pad(images, (0, 0, before[1], after[1], before[0], after[0]))


def _windows(images: Tensor, size: Pair, stride: Pair) -> Tensor:
    """View (B, m, H, W, C) as overlapping windows (B, m, H', W', height, width, C)."""
    windows = images.unfold(2, size[0], stride[0]).unfold(3, size[1], stride[1])
    return windows.permute(0, 1, 2, 3, 5, 6, 4)
