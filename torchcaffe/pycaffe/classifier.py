"""pycaffe's Classifier: a net that takes images of any size and gives class scores."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from torchcaffe.formats.files import PathLike
from torchcaffe.nets.net import TEST, Net
from torchcaffe.pycaffe import io


def preprocessing(net: Net, mean: Any, input_scale: Any, raw_scale: Any, channel_swap: Any) -> io.Transformer:
    """A Transformer for the net's first input: H x W x K to K x H x W, and the settings that are not None."""
    name = net.inputs[0]
    transformer = io.Transformer({name: net.blobs[name].data.shape})
    transformer.set_transpose(name, (2, 0, 1))
    for setting, value in (
        (transformer.set_mean, mean),
        (transformer.set_input_scale, input_scale),
        (transformer.set_raw_scale, raw_scale),
        (transformer.set_channel_swap, channel_swap),
    ):
        if value is not None:
            setting(name, value)
    return transformer


class Classifier(Net):
    """Net(model_file, pretrained_file) in TEST, with preprocessing; caffe.io.Transformer describes its settings.

    image_dims: (height, width) that images are warped to before cropping; by default the net's own size."""

    def __init__(
        self,
        model_file: PathLike,
        pretrained_file: PathLike,
        image_dims: Sequence[int] | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = preprocessing(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].data.shape[2:])
        self.image_dims = image_dims if image_dims else self.crop_dims

    def predict(self, inputs: Iterable[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Scores (N, classes) of N images (H x W x K): the mean over ten crops, or those of the centre crop."""
        resized = np.stack([io.resize_image(np.asarray(image), self.image_dims) for image in inputs])
        crops = io.oversample(resized, self.crop_dims) if oversample else _centre(resized, self.crop_dims)
        name = self.inputs[0]
        batch = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        scores = self.forward_all(None, **{name: batch})[self.outputs[0]]
        return scores.reshape(len(resized), 10, -1).mean(axis=1) if oversample else scores


def _centre(images: np.ndarray, size: Iterable[int]) -> np.ndarray:
    """The middle of each image; half pixels are rounded up and to the left, as in pycaffe."""
    (top, left), (bottom, right) = (
        [int(whole / 2.0 + sign * part / 2.0) for whole, part in zip(images.shape[1:3], size)] for sign in (-1, 1)
    )
    return images[:, top:bottom, left:right]
