"""Make the golden of tests/test_coord_map.py with pycaffe: python3 make_coord_map_goldens.py OUT."""

import json
import os
import sys

import numpy as np


def examples(L):
    """name -> (top from, top to), of nets made with pycaffe's or torchcaffe's layers."""
    made = {}
    data = L.Input(input_param=dict(shape=dict(dim=[2, 1, 100, 100])))

    def road(name, kernel=3, stride=1, pad=0, pool=2, dstride=2, dpad=0):
        conv = L.Convolution(data, kernel_size=kernel, stride=stride, pad=pad, num_output=10)
        pooled = L.Pooling(conv, pool=0, kernel_size=pool, stride=pool, pad=0)
        up = L.Deconvolution(
            pooled, convolution_param=dict(num_output=10, kernel_size=dstride, stride=dstride, pad=dpad)
        )
        made[name] = (up, data)
        made[name + "_conv"] = (conv, data)
        made[name + "_pool"] = (pooled, conv)
        made[name + "_back"] = (data, up)
        return up

    road("unpadded")
    road("padded", pad=1)
    road("big_pad", pad=11)
    road("strided", kernel=5, stride=2, pad=2, dstride=4, dpad=1)
    road("rectangular", kernel=[3, 5], stride=[1, 2], pad=[0, 1], dstride=[2, 4])
    road("volume", kernel=[3, 3, 3], pad=[0, 1, 2], pool=1, dstride=1)
    dilated = L.Convolution(data, kernel_size=3, dilation=[2, 4], pad=1, num_output=2)
    made["dilated"] = (dilated, data)
    made["identity"] = (L.ReLU(L.Dropout(data)), data)
    made["inner"] = (L.Scale(L.LRN(L.PReLU(dilated))), L.Eltwise(L.BatchNorm(dilated), dilated))
    one = L.Convolution(data, kernel_size=3, stride=1, num_output=2)
    cropped = L.Crop(data, one, crop_param=dict(axis=2, offset=[1, 1]))
    made["crop"] = (cropped, one)
    again = L.Crop(cropped, one, crop_param=dict(axis=2, offset=[4, 6]))
    made["crop_of_crop"] = (again, data)
    made["crop_plain"] = (L.Crop(data, one, offset=3), data)
    two = L.Convolution(one, kernel_size=5, pad=4, stride=1, num_output=2)
    made["siblings"] = (two, L.Convolution(one, kernel_size=1, num_output=2))
    made["other_axis"] = (L.Convolution(data, kernel_size=3, axis=2, num_output=2), data)
    return made


def main(out):
    from caffe import layers
    from caffe.coord_map import coord_map_from_to

    found = {}
    for name, (top_from, top_to) in examples(layers).items():
        axis, *rest = coord_map_from_to(top_from, top_to)
        found[name] = [axis] + [np.asarray(value).tolist() for value in rest]
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "maps.json"), "w") as file:
        json.dump(found, file, indent=1, sort_keys=True)


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
