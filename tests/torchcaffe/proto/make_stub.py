"""Writes torchcaffe/proto/caffe_pb2.pyi, the types of the message classes that caffe_pb2.py makes at import:

python -m tests.torchcaffe.proto.make_stub"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from torchcaffe.proto import caffe_pb2

STUB = Path(caffe_pb2.__file__).with_suffix(".pyi")
HEAD = '''"""Types of caffe_pb2, written by tests/torchcaffe/proto/make_stub.py from caffe.proto."""

from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor
'''
SCALARS = {
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_FLOAT: "float",
    FieldDescriptor.CPPTYPE_DOUBLE: "float",
}


def scalar_type(field: FieldDescriptor) -> str:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "bytes" if field.type == FieldDescriptor.TYPE_BYTES else "str"
    return SCALARS.get(field.cpp_type, "int")


def repeated(field: FieldDescriptor) -> bool:
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def enum_lines(enum: EnumDescriptor) -> list[str]:
    return [f"{enum.name}: EnumTypeWrapper", *(f"{value.name}: int" for value in enum.values)]


def field_lines(field: FieldDescriptor) -> list[str]:
    message = field.message_type
    if message is None:
        kind = scalar_type(field)
        return [f"{field.name}: RepeatedScalarFieldContainer[{kind}]" if repeated(field) else f"{field.name}: {kind}"]
    if repeated(field):
        return [f"{field.name}: RepeatedCompositeFieldContainer[{message.name}]"]
    return ["@property", f"def {field.name}(self) -> {message.name}: ..."]  # protobuf refuses assignment


def message_lines(message: Descriptor) -> list[str]:
    lines = [line for enum in message.enum_types for line in enum_lines(enum)]
    lines += [line for field in message.fields for line in field_lines(field)]
    lines.append("def __init__(self, **fields: Any) -> None: ...")
    return [f"class {message.name}(Message):", *("    " + line for line in lines)]


def stub_text() -> str:
    lines = [line for enum in caffe_pb2.DESCRIPTOR.enum_types_by_name.values() for line in enum_lines(enum)]
    for message in caffe_pb2.DESCRIPTOR.message_types_by_name.values():
        lines += ["", *message_lines(message)]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    STUB.write_text(stub_text(), encoding="utf-8")
