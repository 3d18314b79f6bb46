"""pycaffe's Detector: class scores of windows of images (R-CNN style)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import PathLike
from torchcaffe.nets.net import TEST, Net
from torchcaffe.pycaffe import io
from torchcaffe.pycaffe.classifier import preprocessing

Windows = Sequence[Sequence[int]]  # (ymin, xmin, ymax, xmax) each


class Detector(Net):
    """Net(model_file, pretrained_file) in TEST, with preprocessing; caffe.io.Transformer describes its settings.

    context_pad: how many pixels of the net's input surround the window. They come from the image, or outside of it from
    the mean."""

    def __init__(
        self,
        model_file: PathLike,
        pretrained_file: PathLike,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = preprocessing(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Set context_pad, and crop_mean, which fills a crop outside the image: the mean as H x W x K."""
        name = self.inputs[0]
        self.context_pad = context_pad
        channels, height, width = self.blobs[name].data.shape[1:]
        if not context_pad:
            return
        transformer = self.transformer
        mean = transformer.mean.get(name)
        if mean is None:
            self.crop_mean = np.zeros((height, width, channels), np.float32)
            return
        # The inverse of transpose, channel swap and raw scale.
        fill = np.broadcast_to(mean, (channels, height, width)).transpose(np.argsort(transformer.transpose[name]))
        if name in transformer.channel_swap:
            fill = fill[:, :, np.argsort(transformer.channel_swap[name])]
        self.crop_mean = np.array(fill, np.float32) / transformer.raw_scale.get(name, 1.0)

    def crop(self, im: np.ndarray, window: Sequence[int]) -> np.ndarray:
        """The window (ymin, xmin, ymax, xmax) of an image; with context_pad, warped to the net's (square) input."""
        top, left, bottom, right = (int(n) for n in window)
        if not self.context_pad:
            return im[top:bottom, left:right]
        size = self.blobs[self.inputs[0]].width
        scale = size / (size - 2.0 * self.context_pad)
        half = np.array([bottom - top + 1, right - left + 1]) / 2.0
        centre = np.array([top, left]) + half
        low, high = np.round(centre - scale * half), np.round(centre + scale * half)
        factor = size / (high - low + 1)  # pixels of the input per pixel of the image
        pad = [round(max(0.0, -edge) * f) for edge, f in zip(low, factor)]
        limit = np.array(im.shape[:2], float)
        low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
        if (high - low + 1 <= 0).any():
            raise CaffeError(f"window {tuple(window)} is outside the image of {im.shape[0]} x {im.shape[1]}")
        shape = [min(round(extent * f), size - p) for extent, f, p in zip(high - low + 1, factor, pad)]
        (y0, x0), (y1, x1) = low.astype(int), high.astype(int)
        crop = np.ones((size, size, im.shape[2]), np.float32) * self.crop_mean
        crop[pad[0] : pad[0] + shape[0], pad[1] : pad[1] + shape[1]] = io.resize_image(im[y0:y1, x0:x1], shape)
        return crop

    def detect_windows(self, images_windows: Iterable[tuple[PathLike, Windows]]) -> list[dict[str, Any]]:
        """The scores of windows: for each a dict of window, prediction and filename."""
        found, inputs, name = [], [], self.inputs[0]
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                inputs.append(self.transformer.preprocess(name, self.crop(image, window)))
                found.append((window, filename))
        if not found:
            return []
        scores = self.forward_all(None, **{name: np.array(inputs)})[self.outputs[0]]
        return [
            {"window": window, "prediction": score, "filename": filename}
            for (window, filename), score in zip(found, scores)
        ]

    def detect_selective_search(self, image_fnames: Iterable[PathLike]) -> list[dict[str, Any]]:
        """pycaffe's way to propose windows, by MATLAB code: not supported, raises CaffeError."""
        raise CaffeError("selective search needs MATLAB, which is not supported: give windows to detect_windows")
