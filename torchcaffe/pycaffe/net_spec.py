"""Nets written in Python, as pycaffe's net_spec: `layers` makes layers, `params` names enum values, NetSpec names tops.

    n = NetSpec()
    n.data, n.label = layers.Data(source="train_lmdb", batch_size=16, backend=params.Data.LMDB, ntop=2)
    n.conv1 = layers.Convolution(n.data, kernel_size=7, num_output=64, weight_filler=dict(type="xavier"))
    n.relu1 = layers.ReLU(n.conv1, in_place=True)
    proto = n.to_proto()

A keyword sets the field of that name in the layer type's own message (`convolution_param`), or else in the layer
itself; keywords that end in "param" are always the layer's. Dicts are messages (as messages themselves are), lists are
repeated fields, and a single value may stand for a list of one.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from torchcaffe.proto import caffe_pb2

_SUFFIX = "Parameter"


def param_name_dict() -> dict[str, str]:
    """{"Convolution": "convolution", ...}: each type's field for settings, without "_param"."""
    return {
        field.message_type.name.removesuffix(_SUFFIX): field.name.removesuffix("_param")
        for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields
        if field.message_type is not None and field.name.endswith("_param")
    }


_PARAM_FIELDS = {type_name: f"{name}_param" for type_name, name in param_name_dict().items()}


class _Missing(AttributeError, KeyError):
    """pycaffe raises KeyError for an unknown top; hasattr and copy need AttributeError."""

    __str__ = Exception.__str__


class Top:
    """One output of a layer."""

    def __init__(self, fn: "Function", n: int):
        self.fn = fn
        self.n = n

    def to_proto(self):
        """The NetParameter of all layers that this top needs."""
        return to_proto(self)


class Function:
    """One layer: its type, its bottoms (Tops), and its settings. `ntop` is the number of tops; `in_place` makes the
    tops the bottoms."""

    def __init__(self, type_name: str, inputs: tuple, params: dict):
        for index, bottom in enumerate(inputs):
            if not isinstance(bottom, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(bottom)})")
        self.type_name = type_name
        self.inputs = inputs
        self.ntop = params.pop("ntop", 1)
        self.in_place = params.pop("in_place", False)
        self.params = params
        self.tops = tuple(Top(self, n) for n in range(self.ntop))


class _Builder:
    """Collects layers in the order in which they run.

    `names` has the names of Tops (and of Functions without tops); others are named by type and number: Convolution1."""

    def __init__(self, names: dict):
        self.names = names
        self.counts: Counter = Counter()
        self.layers: dict = {}

    def name_of(self, key, type_name: str) -> str:
        if key not in self.names:
            self.counts[type_name] += 1
            self.names[key] = type_name + str(self.counts[type_name])
        return self.names[key]

    def add(self, fn: Function) -> None:
        if fn in self.layers:
            return
        bottoms = []
        for bottom in fn.inputs:
            self.add(bottom.fn)
            bottoms.append(self.layers[bottom.fn].top[bottom.n])
        tops = bottoms if fn.in_place else [self.name_of(top, fn.type_name) for top in fn.tops]
        layer = caffe_pb2.LayerParameter(type=fn.type_name, bottom=bottoms, top=tops)
        layer.name = self.name_of(fn.tops[0] if fn.ntop else fn, fn.type_name)
        for key, value in fn.params.items():
            _set_param(layer, fn.type_name, key, value)
        self.layers[fn] = layer


def _set_param(layer, type_name: str, key: str, value: Any) -> None:
    own = _PARAM_FIELDS.get(type_name)
    if not key.endswith("param") and own and key in getattr(layer, own).DESCRIPTOR.fields_by_name:
        target, path = getattr(layer, own), f"{own}.{key}"
    else:
        target, path = layer, key
    try:
        assign_proto(target, key, value)
    except (AttributeError, TypeError, ValueError) as error:
        kind = next(kind for kind in (AttributeError, TypeError, ValueError) if isinstance(error, kind))
        raise kind(f"{type_name} layer {layer.name!r}: {path}: {' '.join(str(error).split())}") from None


def assign_proto(message: Any, name: str, value: Any) -> None:
    """Set a message's field. A message takes a dict (or a message); a list, or one value, is appended to a repeated
    field. Raises AttributeError for an unknown field."""
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise AttributeError(f"{message.DESCRIPTOR.name} has no field {name!r}")
    current = getattr(message, name)
    if hasattr(current, "extend"):
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if field.message_type is None:
            current.extend(items)
            return
        for item in items:
            _assign_fields(current.add(), item)
    elif field.message_type is not None:
        _assign_fields(current, value)
    else:
        setattr(message, name, value)


def _assign_fields(message, value: Any) -> None:
    if isinstance(value, type(message)):
        message.MergeFrom(value)
        return
    if not isinstance(value, dict):
        raise TypeError(f"{message.DESCRIPTOR.name} takes a dict, not {value!r}")
    for name, item in value.items():
        assign_proto(message, name, item)


def to_proto(*tops: Top):
    """The NetParameter of all layers that the tops need, named by type and number."""
    return _net([(f"argument {index}", top) for index, top in enumerate(tops)], {})


def _net(tops: Iterable[tuple[str, Any]], names: dict):
    builder = _Builder(names)
    for what, top in tops:
        if not isinstance(top, (Top, Function)):
            raise TypeError(f"{what} is not a Top (type is {type(top)})")
        builder.add(top if isinstance(top, Function) else top.fn)
    return caffe_pb2.NetParameter(layer=builder.layers.values())


class NetSpec:
    """A net whose blobs are named by assignment. A layer is named after its first top."""

    def __init__(self) -> None:
        object.__setattr__(self, "tops", OrderedDict())

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["tops"][name]
        except KeyError:
            raise _Missing(name) from None

    __setitem__ = __setattr__
    # Items are always tops, so that a blob may be called "tops" or "to_proto".
    __getitem__ = __getattr__

    def to_proto(self):
        """The NetParameter of all assigned tops and the layers they need, in the order of assignment."""
        return _net(self.tops.items(), {top: name for name, top in self.tops.items()})


class Layers:
    """layers.Convolution(bottom, kernel_size=3) is a Top; with ntop=2 a pair of Tops; with ntop=0 a Function."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):  # copy, pickle and doctest ask for such names
            raise AttributeError(name)

        def layer_fn(*args: Top, **kwargs: Any):
            fn = Function(name, args, kwargs)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        layer_fn.__name__ = layer_fn.__qualname__ = name
        return layer_fn


class Parameters:
    """params.Pooling.MAX is PoolingParameter.MAX."""

    def __getattr__(self, name: str):
        message = getattr(caffe_pb2, name + _SUFFIX, None)
        if message is None:
            raise AttributeError(f"no message {name + _SUFFIX}")
        return message


layers = Layers()
params = Parameters()
