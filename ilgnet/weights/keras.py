"""NIMA's weights as its authors publish them, a Keras HDF5 file, as the weights of the variant `nima`."""

from typing import Any

import numpy as np

from ilgnet.weights.surgery import Layer
from torchcaffe.base.errors import CaffeError
from torchcaffe.formats.files import PathLike
from torchcaffe.formats.hdf5 import array_of, hdf5_file, tried

SCALE = 127.5  # Keras's MobileNet reads (x - 127.5) / 127.5 of RGB; the Caffe net x - 127.5 of BGR


@tried
def _arrays(path: PathLike) -> dict[str, np.ndarray]:
    """The file's float32 arrays by "layer/name", as in "conv1_bn/gamma"."""
    arrays = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "dtype"):
            layer, *_, last = name.split("/")
            arrays[f"{layer}/{last.removesuffix(':0')}"] = array_of(item)

    with hdf5_file(path, "r") as file:
        file.visititems(visit)
    return arrays


def read_nima(path: PathLike, net: Any) -> list[Layer]:
    """The weights in a Keras file for `net`, the NetParameter of the variant `nima`, by its layers' names.

    A kernel is turned from (h, w, inputs, outputs) to (outputs, inputs, h, w). Where Caffe's has an earlier row and
    column (see modules.conv_mobilenet), these are 0. The first one takes the input's scale and BGR order in.
    Raises CaffeError, naming the array, for a file that lacks one."""
    arrays = _arrays(path)

    def array(name: str) -> np.ndarray:
        if name not in arrays:
            raise CaffeError(f"{path}: not NIMA on MobileNet: it has no array {name}")
        return arrays[name]

    def kernel(layer: Any) -> np.ndarray:
        depthwise = layer.convolution_param.group > 1
        values = array(f"{layer.name}/{'depthwise_kernel' if depthwise else 'kernel'}")
        if values.ndim != 4:
            raise CaffeError(f"{path}: {layer.name}: a kernel of {values.ndim} axes, 4 expected")
        values = values.transpose(2, 3, 0, 1) if depthwise else values.transpose(3, 2, 0, 1)
        if layer.bottom[0] == "data":
            values = values[:, ::-1] / np.float32(SCALE)
        before = layer.convolution_param.kernel_size[0] - values.shape[-1]
        return np.pad(values, ((0, 0), (0, 0), (max(before, 0), 0), (max(before, 0), 0)))

    layers = []
    for layer in net.layer:
        match layer.type:
            case "Convolution":
                blobs = [kernel(layer)]
            case "BatchNorm":
                statistics = [array(f"{layer.name}/moving_{what}") for what in ("mean", "variance")]
                blobs = [*statistics, np.ones(1, np.float32)]
            case "Scale":
                blobs = [array(f"{layer.name.removesuffix('scale')}bn/{what}") for what in ("gamma", "beta")]
            case "InnerProduct":
                blobs = [array("dense_1/kernel").T, array("dense_1/bias")]
            case _:
                continue
        layers.append(Layer(layer.name, layer.type, blobs))
    return layers
