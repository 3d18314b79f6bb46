"""Nets written the ways pycaffe's users write them. Each function takes a module with pycaffe's layers, params, NetSpec
and to_proto, and returns a NetParameter; both engines run them."""

from __future__ import annotations


def caffenet(caffe):
    L, P = caffe.layers, caffe.params

    def conv_relu(bottom, ks, nout, stride=1, pad=0, group=1):
        conv = L.Convolution(bottom, kernel_size=ks, stride=stride, num_output=nout, pad=pad, group=group)
        return conv, L.ReLU(conv, in_place=True)

    n = caffe.NetSpec()
    n.data, n.label = L.Data(
        source="lmdb",
        backend=P.Data.LMDB,
        batch_size=256,
        ntop=2,
        transform_param=dict(crop_size=227, mean_value=[104, 117, 123], mirror=True),
    )
    conv1, n.relu1 = conv_relu(n.data, 11, 96, stride=4)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    n.norm1 = L.LRN(n.pool1, local_size=5, alpha=1e-4, beta=0.75)
    conv2, n.relu2 = conv_relu(n.norm1, 5, 256, pad=2, group=2)
    n.fc = L.InnerProduct(n.relu2, num_output=4096, weight_filler=dict(type="gaussian", std=0.005))
    n.fcrelu = L.ReLU(n.fc, in_place=True)
    n.drop = L.Dropout(n.fcrelu, in_place=True, dropout_ratio=0.7)
    n.loss = L.SoftmaxWithLoss(n.drop, n.label, loss_weight=0.3)
    n.acc = L.Accuracy(n.drop, n.label, top_k=5, include=dict(phase=1))
    return n.to_proto()


def inception(caffe):
    L, P = caffe.layers, caffe.params
    n = caffe.NetSpec()
    n["data"] = L.Input(shape=dict(dim=[1, 192, 28, 28]))
    lr = [dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)]
    fill = dict(weight_filler=dict(type="xavier"), bias_filler=dict(type="constant", value=0.2), param=lr)
    n["a/1x1"] = L.Convolution(n["data"], num_output=64, kernel_size=1, **fill)
    n["a/3x3_reduce"] = L.Convolution(n["data"], num_output=96, kernel_size=1, **fill)
    n["a/3x3"] = L.Convolution(n["a/3x3_reduce"], num_output=128, kernel_size=3, pad=1, **fill)
    n["a/pool"] = L.Pooling(n["data"], pool=P.Pooling.AVE, kernel_size=3, stride=1, pad=1)
    n["a/output"] = L.Concat(n["a/1x1"], n["a/3x3"], n["a/pool"], name="a/concat")
    n["a/bn"] = L.BatchNorm(n["a/output"], param=[dict(lr_mult=0, decay_mult=0)] * 3, eps=1e-3, in_place=True)
    n["a/scale"] = L.Scale(n["a/bn"], bias_term=True, in_place=True, bias_filler={"value": 1 / 3})
    return n.to_proto()


def autonames(caffe):
    L = caffe.layers
    a, b = L.DummyData(ntop=2, shape=[dict(dim=[2, 3]), dict(dim=5)], data_filler=[dict(), dict(value=2)])
    c = L.InnerProduct(a, num_output=4)
    d = L.ReLU(c, in_place=True, negative_slope=0.1)
    e = L.InnerProduct(d, num_output=4, name="named", param=dict(name="w"))
    f = L.Eltwise(c, e, d, coeff=[1, -1, 0.5], operation=caffe.params.Eltwise.SUM)
    return caffe.to_proto(f, L.Silence(b), e)


def no_tops_and_two_names(caffe):
    L = caffe.layers
    n = caffe.NetSpec()
    n.a, n.b = L.MemoryData(batch_size=2, channels=3, height=4, width=5, ntop=2)
    n.c = n.a
    n.quiet = L.Silence(n.a, n.b, ntop=0)
    n.late = L.TanH(L.Sigmoid(L.AbsVal(n.c)))
    return n.to_proto()


def settings_of_all_kinds(caffe):
    L, P = caffe.layers, caffe.params
    n = caffe.NetSpec()
    n.x = L.Python(module="my.layers", layer="Source", param_str='{"a": 1}\n\t\\ \u00e9', ntop=1, loss_weight=[0])
    n.up = L.Deconvolution(n.x, convolution_param=dict(num_output=2, kernel_size=4, stride=2, bias_term=False))
    n.s1, n.s2, n.s3 = L.Slice(n.up, ntop=3, axis=1, slice_point=[1, 3], propagate_down=[True])
    n.crop = L.Crop(n.s1, n.s2, axis=2, offset=[1, 2])
    n.reshaped = L.Reshape(n.crop, shape=dict(dim=[0, -1, 16777217]))
    n.power = L.Power(n.s3, power=0.1, scale=1e-7, shift=123456.789)
    n.lstm = L.LSTM(
        n.power, n.reshaped, recurrent_param=dict(num_output=3, weight_filler=dict(type="uniform", min=-0.08))
    )
    n.const = L.Parameter(shape=dict(dim=[3]))
    n.loss = L.SigmoidCrossEntropyLoss(
        n.lstm,
        n.const,
        loss_param=dict(ignore_label=255, normalization=P.Loss.BATCH_SIZE),
        exclude=[dict(stage=["a", "b"], min_level=1), dict(phase=0)],
        phase=1,
    )
    return n.to_proto()


def every_type(caffe):
    """A type's own settings go into the message named after it."""
    L = caffe.layers
    n = caffe.NetSpec()
    n.argmax = L.ArgMax(axis=2)
    n.bias = L.Bias(num_axes=2)
    n.clip = L.Clip(min=-1, max=1)
    n.contrastive = L.ContrastiveLoss(margin=2)
    n.elu = L.ELU(alpha=0.5)
    n.embed = L.Embed(num_output=3, input_dim=4)
    n.exp = L.Exp(base=2)
    n.flatten = L.Flatten(end_axis=2)
    n.hdf5 = L.HDF5Data(source="a", batch_size=2, shuffle=True)
    n.out = L.HDF5Output(file_name="b", ntop=0)
    n.hinge = L.HingeLoss(norm=caffe.params.HingeLoss.L2)
    n.image = L.ImageData(source="c", root_folder="d", new_height=2)
    n.infogain = L.InfogainLoss(source="e")
    n.log = L.Log(base=10)
    n.mvn = L.MVN(across_channels=True)
    n.prelu = L.PReLU(channel_shared=True)
    n.reduction = L.Reduction(operation=caffe.params.Reduction.MEAN)
    n.softmax = L.Softmax(axis=-1)
    n.spp = L.SPP(pyramid_height=2)
    n.swish = L.Swish(beta=2)
    n.threshold = L.Threshold(threshold=0.5)
    n.tile = L.Tile(tiles=2)
    n.window = L.WindowData(source="f", crop_mode="square")
    n.unknown = L.SomeOtherLayer()
    return n.to_proto()


EXAMPLES = [caffenet, inception, autonames, no_tops_and_two_names, settings_of_all_kinds, every_type]
