"""Hypothesis strategies for messages of the schema."""

from __future__ import annotations

from google.protobuf import descriptor_pb2
from hypothesis import strategies as st

from tests.bvlc.make_proto_goldens import schema_table
from torchcaffe.proto import caffe_pb2

_RESOLVED = descriptor_pb2.FileDescriptorProto()  # with the full names of types
caffe_pb2.DESCRIPTOR.CopyToProto(_RESOLVED)
OURS = schema_table(_RESOLVED.SerializeToString())

_SCALARS = {
    "TYPE_DOUBLE": st.floats(allow_nan=False),
    "TYPE_FLOAT": st.floats(width=32, allow_nan=False),
    "TYPE_INT32": st.integers(-(2**31), 2**31 - 1),
    "TYPE_INT64": st.integers(-(2**63), 2**63 - 1),
    "TYPE_UINT32": st.integers(0, 2**32 - 1),
    "TYPE_BOOL": st.booleans(),
    "TYPE_STRING": st.text(st.characters(blacklist_categories=["Cs"]), max_size=8),
    "TYPE_BYTES": st.binary(max_size=8),
}


@st.composite
def messages(draw, name="NetParameter", depth=4):
    """A message with a few random fields set, nested at most `depth` deep."""
    message = getattr(caffe_pb2, name)()
    fields = {field.name: field for field in message.DESCRIPTOR.fields}
    chosen = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True))
    required = [field for field, row in OURS[name].items() if row[2] == "required"]
    for field_name in set(chosen) | set(required):
        _, kind, label, _, _ = OURS[name][field_name]
        if kind[0] != ".":
            values = _SCALARS["TYPE_" + kind.upper()]
        elif fields[field_name].enum_type is not None:
            values = st.sampled_from(sorted(value.number for value in fields[field_name].enum_type.values))
        elif depth > 0:
            values = messages(kind.split(".")[-1], depth - 1)
        else:
            continue
        if label == "repeated":
            getattr(message, field_name).extend(draw(st.lists(values, min_size=1, max_size=3)))
        elif fields[field_name].message_type is not None:
            getattr(message, field_name).CopyFrom(draw(values))
        else:
            setattr(message, field_name, draw(values))
    return message
