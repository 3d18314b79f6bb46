"""The module that protoc would make from caffe.proto: message classes, and the values of top-level enums.

`from torchcaffe.proto import caffe_pb2` gives caffe_pb2.NetParameter, caffe_pb2.TRAIN, caffe_pb2.Phase.Name(0),
caffe_pb2.PoolingParameter.MAX, caffe_pb2.DESCRIPTOR and so on.
"""

from pathlib import Path

from google.protobuf.internal import enum_type_wrapper

from torchcaffe.proto import schema

_text = Path(__file__).with_name("caffe.proto").read_text(encoding="utf-8")
DESCRIPTOR, _classes = schema.build_classes(schema.parse_schema(_text, "torchcaffe/proto/caffe.proto"))

for _class in _classes.values():
    _class.__module__ = __name__  # messages are pickled by their class's name
globals().update(_classes)
for _enum in DESCRIPTOR.enum_types_by_name.values():
    globals()[_enum.name] = enum_type_wrapper.EnumTypeWrapper(_enum)
    globals().update((_value.name, _value.number) for _value in _enum.values)
