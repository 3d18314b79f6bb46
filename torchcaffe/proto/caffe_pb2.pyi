"""Types of caffe_pb2, written by tests/torchcaffe/proto/make_stub.py from caffe.proto."""

from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor
Phase: EnumTypeWrapper
TRAIN: int
TEST: int

class BlobShape(Message):
    dim: RepeatedScalarFieldContainer[int]
    def __init__(self, **fields: Any) -> None: ...

class BlobProto(Message):
    num: int
    channels: int
    height: int
    width: int
    data: RepeatedScalarFieldContainer[float]
    diff: RepeatedScalarFieldContainer[float]
    @property
    def shape(self) -> BlobShape: ...
    double_data: RepeatedScalarFieldContainer[float]
    double_diff: RepeatedScalarFieldContainer[float]
    def __init__(self, **fields: Any) -> None: ...

class BlobProtoVector(Message):
    blobs: RepeatedCompositeFieldContainer[BlobProto]
    def __init__(self, **fields: Any) -> None: ...

class Datum(Message):
    channels: int
    height: int
    width: int
    data: bytes
    label: int
    float_data: RepeatedScalarFieldContainer[float]
    encoded: bool
    def __init__(self, **fields: Any) -> None: ...

class FillerParameter(Message):
    VarianceNorm: EnumTypeWrapper
    FAN_IN: int
    FAN_OUT: int
    AVERAGE: int
    type: str
    value: float
    min: float
    max: float
    mean: float
    std: float
    sparse: int
    variance_norm: int
    def __init__(self, **fields: Any) -> None: ...

class NetParameter(Message):
    name: str
    layers: RepeatedCompositeFieldContainer[V1LayerParameter]
    input: RepeatedScalarFieldContainer[str]
    input_dim: RepeatedScalarFieldContainer[int]
    force_backward: bool
    @property
    def state(self) -> NetState: ...
    debug_info: bool
    input_shape: RepeatedCompositeFieldContainer[BlobShape]
    layer: RepeatedCompositeFieldContainer[LayerParameter]
    def __init__(self, **fields: Any) -> None: ...

class NetState(Message):
    phase: int
    level: int
    stage: RepeatedScalarFieldContainer[str]
    def __init__(self, **fields: Any) -> None: ...

class NetStateRule(Message):
    phase: int
    min_level: int
    max_level: int
    stage: RepeatedScalarFieldContainer[str]
    not_stage: RepeatedScalarFieldContainer[str]
    def __init__(self, **fields: Any) -> None: ...

class ParamSpec(Message):
    DimCheckMode: EnumTypeWrapper
    STRICT: int
    PERMISSIVE: int
    name: str
    share_mode: int
    lr_mult: float
    decay_mult: float
    def __init__(self, **fields: Any) -> None: ...

class LayerParameter(Message):
    name: str
    type: str
    bottom: RepeatedScalarFieldContainer[str]
    top: RepeatedScalarFieldContainer[str]
    loss_weight: RepeatedScalarFieldContainer[float]
    param: RepeatedCompositeFieldContainer[ParamSpec]
    blobs: RepeatedCompositeFieldContainer[BlobProto]
    include: RepeatedCompositeFieldContainer[NetStateRule]
    exclude: RepeatedCompositeFieldContainer[NetStateRule]
    phase: int
    propagate_down: RepeatedScalarFieldContainer[bool]
    @property
    def transform_param(self) -> TransformationParameter: ...
    @property
    def loss_param(self) -> LossParameter: ...
    @property
    def accuracy_param(self) -> AccuracyParameter: ...
    @property
    def argmax_param(self) -> ArgMaxParameter: ...
    @property
    def concat_param(self) -> ConcatParameter: ...
    @property
    def contrastive_loss_param(self) -> ContrastiveLossParameter: ...
    @property
    def convolution_param(self) -> ConvolutionParameter: ...
    @property
    def data_param(self) -> DataParameter: ...
    @property
    def dropout_param(self) -> DropoutParameter: ...
    @property
    def dummy_data_param(self) -> DummyDataParameter: ...
    @property
    def eltwise_param(self) -> EltwiseParameter: ...
    @property
    def exp_param(self) -> ExpParameter: ...
    @property
    def hdf5_data_param(self) -> HDF5DataParameter: ...
    @property
    def hdf5_output_param(self) -> HDF5OutputParameter: ...
    @property
    def hinge_loss_param(self) -> HingeLossParameter: ...
    @property
    def image_data_param(self) -> ImageDataParameter: ...
    @property
    def infogain_loss_param(self) -> InfogainLossParameter: ...
    @property
    def inner_product_param(self) -> InnerProductParameter: ...
    @property
    def lrn_param(self) -> LRNParameter: ...
    @property
    def memory_data_param(self) -> MemoryDataParameter: ...
    @property
    def mvn_param(self) -> MVNParameter: ...
    @property
    def pooling_param(self) -> PoolingParameter: ...
    @property
    def power_param(self) -> PowerParameter: ...
    @property
    def relu_param(self) -> ReLUParameter: ...
    @property
    def sigmoid_param(self) -> SigmoidParameter: ...
    @property
    def softmax_param(self) -> SoftmaxParameter: ...
    @property
    def slice_param(self) -> SliceParameter: ...
    @property
    def tanh_param(self) -> TanHParameter: ...
    @property
    def threshold_param(self) -> ThresholdParameter: ...
    @property
    def window_data_param(self) -> WindowDataParameter: ...
    @property
    def python_param(self) -> PythonParameter: ...
    @property
    def prelu_param(self) -> PReLUParameter: ...
    @property
    def spp_param(self) -> SPPParameter: ...
    @property
    def reshape_param(self) -> ReshapeParameter: ...
    @property
    def log_param(self) -> LogParameter: ...
    @property
    def flatten_param(self) -> FlattenParameter: ...
    @property
    def reduction_param(self) -> ReductionParameter: ...
    @property
    def embed_param(self) -> EmbedParameter: ...
    @property
    def tile_param(self) -> TileParameter: ...
    @property
    def batch_norm_param(self) -> BatchNormParameter: ...
    @property
    def elu_param(self) -> ELUParameter: ...
    @property
    def bias_param(self) -> BiasParameter: ...
    @property
    def scale_param(self) -> ScaleParameter: ...
    @property
    def input_param(self) -> InputParameter: ...
    @property
    def crop_param(self) -> CropParameter: ...
    @property
    def parameter_param(self) -> ParameterParameter: ...
    @property
    def recurrent_param(self) -> RecurrentParameter: ...
    @property
    def swish_param(self) -> SwishParameter: ...
    @property
    def clip_param(self) -> ClipParameter: ...
    @property
    def bn_param(self) -> BNParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class SolverParameter(Message):
    SnapshotFormat: EnumTypeWrapper
    HDF5: int
    BINARYPROTO: int
    SolverMode: EnumTypeWrapper
    CPU: int
    GPU: int
    SolverType: EnumTypeWrapper
    SGD: int
    NESTEROV: int
    ADAGRAD: int
    RMSPROP: int
    ADADELTA: int
    ADAM: int
    train_net: str
    test_net: RepeatedScalarFieldContainer[str]
    test_iter: RepeatedScalarFieldContainer[int]
    test_interval: int
    base_lr: float
    display: int
    max_iter: int
    lr_policy: str
    gamma: float
    power: float
    momentum: float
    weight_decay: float
    stepsize: int
    snapshot: int
    snapshot_prefix: str
    snapshot_diff: bool
    solver_mode: int
    device_id: int
    test_compute_loss: bool
    random_seed: int
    @property
    def train_net_param(self) -> NetParameter: ...
    test_net_param: RepeatedCompositeFieldContainer[NetParameter]
    debug_info: bool
    net: str
    @property
    def net_param(self) -> NetParameter: ...
    @property
    def train_state(self) -> NetState: ...
    test_state: RepeatedCompositeFieldContainer[NetState]
    snapshot_after_train: bool
    regularization_type: str
    solver_type: int
    delta: float
    test_initialization: bool
    average_loss: int
    stepvalue: RepeatedScalarFieldContainer[int]
    clip_gradients: float
    iter_size: int
    snapshot_format: int
    rms_decay: float
    momentum2: float
    type: str
    layer_wise_reduce: bool
    weights: RepeatedScalarFieldContainer[str]
    def __init__(self, **fields: Any) -> None: ...

class SolverState(Message):
    iter: int
    learned_net: str
    history: RepeatedCompositeFieldContainer[BlobProto]
    current_step: int
    def __init__(self, **fields: Any) -> None: ...

class TransformationParameter(Message):
    scale: float
    mirror: bool
    crop_size: int
    mean_file: str
    mean_value: RepeatedScalarFieldContainer[float]
    force_color: bool
    force_gray: bool
    def __init__(self, **fields: Any) -> None: ...

class LossParameter(Message):
    NormalizationMode: EnumTypeWrapper
    FULL: int
    VALID: int
    BATCH_SIZE: int
    NONE: int
    ignore_label: int
    normalize: bool
    normalization: int
    def __init__(self, **fields: Any) -> None: ...

class DataParameter(Message):
    DB: EnumTypeWrapper
    LEVELDB: int
    LMDB: int
    source: str
    scale: float
    mean_file: str
    batch_size: int
    crop_size: int
    mirror: bool
    rand_skip: int
    backend: int
    force_encoded_color: bool
    prefetch: int
    def __init__(self, **fields: Any) -> None: ...

class DummyDataParameter(Message):
    data_filler: RepeatedCompositeFieldContainer[FillerParameter]
    num: RepeatedScalarFieldContainer[int]
    channels: RepeatedScalarFieldContainer[int]
    height: RepeatedScalarFieldContainer[int]
    width: RepeatedScalarFieldContainer[int]
    shape: RepeatedCompositeFieldContainer[BlobShape]
    def __init__(self, **fields: Any) -> None: ...

class HDF5DataParameter(Message):
    source: str
    batch_size: int
    shuffle: bool
    def __init__(self, **fields: Any) -> None: ...

class HDF5OutputParameter(Message):
    file_name: str
    def __init__(self, **fields: Any) -> None: ...

class ImageDataParameter(Message):
    source: str
    scale: float
    mean_file: str
    batch_size: int
    crop_size: int
    mirror: bool
    rand_skip: int
    shuffle: bool
    new_height: int
    new_width: int
    is_color: bool
    root_folder: str
    def __init__(self, **fields: Any) -> None: ...

class InputParameter(Message):
    shape: RepeatedCompositeFieldContainer[BlobShape]
    def __init__(self, **fields: Any) -> None: ...

class MemoryDataParameter(Message):
    batch_size: int
    channels: int
    height: int
    width: int
    def __init__(self, **fields: Any) -> None: ...

class WindowDataParameter(Message):
    source: str
    scale: float
    mean_file: str
    batch_size: int
    crop_size: int
    mirror: bool
    fg_threshold: float
    bg_threshold: float
    fg_fraction: float
    context_pad: int
    crop_mode: str
    cache_images: bool
    root_folder: str
    def __init__(self, **fields: Any) -> None: ...

class ConvolutionParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    num_output: int
    bias_term: bool
    pad: RepeatedScalarFieldContainer[int]
    kernel_size: RepeatedScalarFieldContainer[int]
    group: int
    stride: RepeatedScalarFieldContainer[int]
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    pad_h: int
    pad_w: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    engine: int
    axis: int
    force_nd_im2col: bool
    dilation: RepeatedScalarFieldContainer[int]
    def __init__(self, **fields: Any) -> None: ...

class PoolingParameter(Message):
    PoolMethod: EnumTypeWrapper
    MAX: int
    AVE: int
    STOCHASTIC: int
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    RoundMode: EnumTypeWrapper
    CEIL: int
    FLOOR: int
    pool: int
    kernel_size: int
    stride: int
    pad: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    engine: int
    global_pooling: bool
    round_mode: int
    def __init__(self, **fields: Any) -> None: ...

class SPPParameter(Message):
    PoolMethod: EnumTypeWrapper
    MAX: int
    AVE: int
    STOCHASTIC: int
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    pyramid_height: int
    pool: int
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class InnerProductParameter(Message):
    num_output: int
    bias_term: bool
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    axis: int
    transpose: bool
    def __init__(self, **fields: Any) -> None: ...

class EmbedParameter(Message):
    num_output: int
    input_dim: int
    bias_term: bool
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class RecurrentParameter(Message):
    num_output: int
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    debug_info: bool
    expose_hidden: bool
    def __init__(self, **fields: Any) -> None: ...

class LRNParameter(Message):
    NormRegion: EnumTypeWrapper
    ACROSS_CHANNELS: int
    WITHIN_CHANNEL: int
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    local_size: int
    alpha: float
    beta: float
    norm_region: int
    k: float
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class BatchNormParameter(Message):
    use_global_stats: bool
    moving_average_fraction: float
    eps: float
    def __init__(self, **fields: Any) -> None: ...

class BNParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    @property
    def slope_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    momentum: float
    eps: float
    frozen: bool
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class MVNParameter(Message):
    normalize_variance: bool
    across_channels: bool
    eps: float
    def __init__(self, **fields: Any) -> None: ...

class DropoutParameter(Message):
    dropout_ratio: float
    def __init__(self, **fields: Any) -> None: ...

class ReLUParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    negative_slope: float
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class PReLUParameter(Message):
    @property
    def filler(self) -> FillerParameter: ...
    channel_shared: bool
    def __init__(self, **fields: Any) -> None: ...

class ELUParameter(Message):
    alpha: float
    def __init__(self, **fields: Any) -> None: ...

class SigmoidParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class TanHParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    engine: int
    def __init__(self, **fields: Any) -> None: ...

class SwishParameter(Message):
    beta: float
    def __init__(self, **fields: Any) -> None: ...

class ClipParameter(Message):
    min: float
    max: float
    def __init__(self, **fields: Any) -> None: ...

class ThresholdParameter(Message):
    threshold: float
    def __init__(self, **fields: Any) -> None: ...

class PowerParameter(Message):
    power: float
    scale: float
    shift: float
    def __init__(self, **fields: Any) -> None: ...

class ExpParameter(Message):
    base: float
    scale: float
    shift: float
    def __init__(self, **fields: Any) -> None: ...

class LogParameter(Message):
    base: float
    scale: float
    shift: float
    def __init__(self, **fields: Any) -> None: ...

class BiasParameter(Message):
    axis: int
    num_axes: int
    @property
    def filler(self) -> FillerParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class ScaleParameter(Message):
    axis: int
    num_axes: int
    @property
    def filler(self) -> FillerParameter: ...
    bias_term: bool
    @property
    def bias_filler(self) -> FillerParameter: ...
    def __init__(self, **fields: Any) -> None: ...

class EltwiseParameter(Message):
    EltwiseOp: EnumTypeWrapper
    PROD: int
    SUM: int
    MAX: int
    operation: int
    coeff: RepeatedScalarFieldContainer[float]
    stable_prod_grad: bool
    def __init__(self, **fields: Any) -> None: ...

class ConcatParameter(Message):
    concat_dim: int
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class SliceParameter(Message):
    slice_dim: int
    slice_point: RepeatedScalarFieldContainer[int]
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class CropParameter(Message):
    axis: int
    offset: RepeatedScalarFieldContainer[int]
    def __init__(self, **fields: Any) -> None: ...

class FlattenParameter(Message):
    axis: int
    end_axis: int
    def __init__(self, **fields: Any) -> None: ...

class ReshapeParameter(Message):
    @property
    def shape(self) -> BlobShape: ...
    axis: int
    num_axes: int
    def __init__(self, **fields: Any) -> None: ...

class TileParameter(Message):
    axis: int
    tiles: int
    def __init__(self, **fields: Any) -> None: ...

class ReductionParameter(Message):
    ReductionOp: EnumTypeWrapper
    SUM: int
    ASUM: int
    SUMSQ: int
    MEAN: int
    operation: int
    axis: int
    coeff: float
    def __init__(self, **fields: Any) -> None: ...

class ArgMaxParameter(Message):
    out_max_val: bool
    top_k: int
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class SoftmaxParameter(Message):
    Engine: EnumTypeWrapper
    DEFAULT: int
    CAFFE: int
    CUDNN: int
    engine: int
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class AccuracyParameter(Message):
    top_k: int
    axis: int
    ignore_label: int
    def __init__(self, **fields: Any) -> None: ...

class ContrastiveLossParameter(Message):
    margin: float
    legacy_version: bool
    def __init__(self, **fields: Any) -> None: ...

class HingeLossParameter(Message):
    Norm: EnumTypeWrapper
    L1: int
    L2: int
    norm: int
    def __init__(self, **fields: Any) -> None: ...

class InfogainLossParameter(Message):
    source: str
    axis: int
    def __init__(self, **fields: Any) -> None: ...

class ParameterParameter(Message):
    @property
    def shape(self) -> BlobShape: ...
    def __init__(self, **fields: Any) -> None: ...

class PythonParameter(Message):
    module: str
    layer: str
    param_str: str
    share_in_parallel: bool
    def __init__(self, **fields: Any) -> None: ...

class V1LayerParameter(Message):
    LayerType: EnumTypeWrapper
    NONE: int
    ABSVAL: int
    ACCURACY: int
    ARGMAX: int
    BNLL: int
    CONCAT: int
    CONTRASTIVE_LOSS: int
    CONVOLUTION: int
    DATA: int
    DECONVOLUTION: int
    DROPOUT: int
    DUMMY_DATA: int
    EUCLIDEAN_LOSS: int
    ELTWISE: int
    EXP: int
    FLATTEN: int
    HDF5_DATA: int
    HDF5_OUTPUT: int
    HINGE_LOSS: int
    IM2COL: int
    IMAGE_DATA: int
    INFOGAIN_LOSS: int
    INNER_PRODUCT: int
    LRN: int
    MEMORY_DATA: int
    MULTINOMIAL_LOGISTIC_LOSS: int
    MVN: int
    POOLING: int
    POWER: int
    RELU: int
    SIGMOID: int
    SIGMOID_CROSS_ENTROPY_LOSS: int
    SILENCE: int
    SOFTMAX: int
    SOFTMAX_LOSS: int
    SPLIT: int
    SLICE: int
    TANH: int
    WINDOW_DATA: int
    THRESHOLD: int
    DimCheckMode: EnumTypeWrapper
    STRICT: int
    PERMISSIVE: int
    @property
    def layer(self) -> V0LayerParameter: ...
    bottom: RepeatedScalarFieldContainer[str]
    top: RepeatedScalarFieldContainer[str]
    name: str
    type: int
    blobs: RepeatedCompositeFieldContainer[BlobProto]
    blobs_lr: RepeatedScalarFieldContainer[float]
    weight_decay: RepeatedScalarFieldContainer[float]
    @property
    def concat_param(self) -> ConcatParameter: ...
    @property
    def convolution_param(self) -> ConvolutionParameter: ...
    @property
    def data_param(self) -> DataParameter: ...
    @property
    def dropout_param(self) -> DropoutParameter: ...
    @property
    def hdf5_data_param(self) -> HDF5DataParameter: ...
    @property
    def hdf5_output_param(self) -> HDF5OutputParameter: ...
    @property
    def image_data_param(self) -> ImageDataParameter: ...
    @property
    def infogain_loss_param(self) -> InfogainLossParameter: ...
    @property
    def inner_product_param(self) -> InnerProductParameter: ...
    @property
    def lrn_param(self) -> LRNParameter: ...
    @property
    def pooling_param(self) -> PoolingParameter: ...
    @property
    def window_data_param(self) -> WindowDataParameter: ...
    @property
    def power_param(self) -> PowerParameter: ...
    @property
    def memory_data_param(self) -> MemoryDataParameter: ...
    @property
    def argmax_param(self) -> ArgMaxParameter: ...
    @property
    def eltwise_param(self) -> EltwiseParameter: ...
    @property
    def threshold_param(self) -> ThresholdParameter: ...
    @property
    def dummy_data_param(self) -> DummyDataParameter: ...
    @property
    def accuracy_param(self) -> AccuracyParameter: ...
    @property
    def hinge_loss_param(self) -> HingeLossParameter: ...
    @property
    def relu_param(self) -> ReLUParameter: ...
    @property
    def slice_param(self) -> SliceParameter: ...
    include: RepeatedCompositeFieldContainer[NetStateRule]
    exclude: RepeatedCompositeFieldContainer[NetStateRule]
    @property
    def mvn_param(self) -> MVNParameter: ...
    loss_weight: RepeatedScalarFieldContainer[float]
    @property
    def transform_param(self) -> TransformationParameter: ...
    @property
    def tanh_param(self) -> TanHParameter: ...
    @property
    def sigmoid_param(self) -> SigmoidParameter: ...
    @property
    def softmax_param(self) -> SoftmaxParameter: ...
    @property
    def contrastive_loss_param(self) -> ContrastiveLossParameter: ...
    @property
    def exp_param(self) -> ExpParameter: ...
    @property
    def loss_param(self) -> LossParameter: ...
    param: RepeatedScalarFieldContainer[str]
    blob_share_mode: RepeatedScalarFieldContainer[int]
    def __init__(self, **fields: Any) -> None: ...

class V0LayerParameter(Message):
    PoolMethod: EnumTypeWrapper
    MAX: int
    AVE: int
    STOCHASTIC: int
    name: str
    type: str
    num_output: int
    biasterm: bool
    @property
    def weight_filler(self) -> FillerParameter: ...
    @property
    def bias_filler(self) -> FillerParameter: ...
    pad: int
    kernelsize: int
    group: int
    stride: int
    pool: int
    dropout_ratio: float
    local_size: int
    alpha: float
    beta: float
    source: str
    scale: float
    meanfile: str
    batchsize: int
    cropsize: int
    mirror: bool
    k: float
    blobs: RepeatedCompositeFieldContainer[BlobProto]
    blobs_lr: RepeatedScalarFieldContainer[float]
    weight_decay: RepeatedScalarFieldContainer[float]
    rand_skip: int
    det_fg_threshold: float
    det_bg_threshold: float
    det_fg_fraction: float
    det_context_pad: int
    det_crop_mode: str
    new_num: int
    new_channels: int
    new_height: int
    new_width: int
    shuffle_images: bool
    concat_dim: int
    @property
    def hdf5_output_param(self) -> HDF5OutputParameter: ...
    def __init__(self, **fields: Any) -> None: ...
