"""Names of layer types in each generation of the schema."""

from torchcaffe.proto import caffe_pb2

# V0 type: V1 type. Most have the same name.
_SAME_IN_V1 = (
    "accuracy", "bnll", "concat", "data", "dropout", "euclidean_loss", "flatten", "hdf5_data", "hdf5_output", "im2col",
    "infogain_loss", "lrn", "multinomial_logistic_loss", "relu", "sigmoid", "softmax", "softmax_loss", "split", "tanh",
    "window_data",
)  # fmt: skip
V0_TYPES = {name: name.upper() for name in _SAME_IN_V1} | {
    "conv": "CONVOLUTION",
    "images": "IMAGE_DATA",
    "innerproduct": "INNER_PRODUCT",
    "pool": "POOLING",
}

# V1 type: current type. They differ in case and underscores only, but for two; NONE is a layer without a type.
_CURRENT = (
    "AbsVal", "Accuracy", "ArgMax", "BNLL", "Concat", "ContrastiveLoss", "Convolution", "Data", "Deconvolution",
    "Dropout", "DummyData", "Eltwise", "EuclideanLoss", "Exp", "Flatten", "HDF5Data", "HDF5Output", "HingeLoss",
    "Im2col", "ImageData", "InfogainLoss", "InnerProduct", "LRN", "MemoryData", "MultinomialLogisticLoss", "MVN",
    "Pooling", "Power", "ReLU", "Sigmoid", "SigmoidCrossEntropyLoss", "Silence", "Slice", "Softmax", "Split", "TanH",
    "Threshold", "WindowData",
)  # fmt: skip
_IN_CAPITALS = {name.upper(): name for name in _CURRENT} | {"NONE": "", "SOFTMAXLOSS": "SoftmaxWithLoss"}
V1_TYPE_NAMES = {name: _IN_CAPITALS[name.replace("_", "")] for name in caffe_pb2.V1LayerParameter.LayerType.keys()}


def current_type(generation: str, name: str) -> str:
    """The current name of a layer type that a file stores as a word (V0), an enum's number (V1) or a name ("current").
    An unknown type is returned as it is."""
    if generation == "V0" and name in V0_TYPES:
        return V1_TYPE_NAMES[V0_TYPES[name]]
    known = caffe_pb2.V1LayerParameter.LayerType.DESCRIPTOR.values_by_number
    if generation == "V1" and name.isdigit() and int(name) in known:
        return V1_TYPE_NAMES[known[int(name)].name]
    return name
