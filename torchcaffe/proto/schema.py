"""Builds protobuf message classes from a .proto file's text at import, without protoc.

protoc's output works with some protobuf releases only; a FileDescriptorProto made here works with all of them.
The classes have their own descriptor pool: a real pycaffe registers its caffe.proto in protobuf's default pool, and two
definitions of `caffe.NetParameter` in one pool are an error.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_LABELS = {"optional": _FIELD.LABEL_OPTIONAL, "required": _FIELD.LABEL_REQUIRED, "repeated": _FIELD.LABEL_REPEATED}
_SCALARS = {
    "double": _FIELD.TYPE_DOUBLE,
    "float": _FIELD.TYPE_FLOAT,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
    "bool": _FIELD.TYPE_BOOL,
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
}
_TOKEN = re.compile(r'//[^\n]*|\s+|("(?:[^"\\]|\\.)*"|-?[\w.+-]+|[{}=;\[\],])')


class _Tokens:
    """The words of a .proto file, without white space and comments."""

    def __init__(self, text: str):
        self.words = [word for word in _TOKEN.findall(text) if word]
        self.next = 0

    def peek(self) -> str:
        return self.words[self.next]

    def take(self, *expected: str) -> str:
        word = self.words[self.next]
        if expected and word not in expected:
            raise ValueError(f"proto schema: expected {' or '.join(expected)}, found {word!r}")
        self.next += 1
        return word


def parse_schema(text: str, file_name: str) -> descriptor_pb2.FileDescriptorProto:
    """Parse the part of proto2 that Caffe's schema uses: messages, nested enums, scalar, message and enum fields,
    `default` and `packed`. Raises ValueError for anything else."""
    tokens = _Tokens(text)
    file = descriptor_pb2.FileDescriptorProto(name=file_name)
    while tokens.next < len(tokens.words):
        word = tokens.take("syntax", "package", "message", "enum")
        if word == "syntax":
            tokens.take("=")
            tokens.take('"proto2"')
            tokens.take(";")
        elif word == "package":
            file.package = tokens.take()
            tokens.take(";")
        elif word == "message":
            _parse_message(tokens, file.message_type.add())
        else:
            _parse_enum(tokens, file.enum_type.add())
    _resolve_types(file)
    return file


def _parse_enum(tokens: _Tokens, enum: descriptor_pb2.EnumDescriptorProto) -> None:
    enum.name = tokens.take()
    tokens.take("{")
    while tokens.peek() != "}":
        name = tokens.take()
        tokens.take("=")
        enum.value.add(name=name, number=int(tokens.take()))
        tokens.take(";")
    tokens.take("}")


def _parse_message(tokens: _Tokens, message: descriptor_pb2.DescriptorProto) -> None:
    message.name = tokens.take()
    tokens.take("{")
    while tokens.peek() != "}":
        word = tokens.take("enum", *_LABELS)
        if word == "enum":
            _parse_enum(tokens, message.enum_type.add())
            continue
        field = message.field.add(label=_LABELS[word])
        field.type_name = tokens.take()
        field.name = tokens.take()
        tokens.take("=")
        field.number = int(tokens.take())
        if tokens.take("[", ";") == "[":
            _parse_options(tokens, field)
            tokens.take(";")
    tokens.take("}")


def _parse_options(tokens: _Tokens, field: descriptor_pb2.FieldDescriptorProto) -> None:
    while True:
        option = tokens.take("default", "packed")
        tokens.take("=")
        value = tokens.take()
        if option == "packed":
            field.options.packed = value == "true"
        else:
            field.default_value = value.strip('"')
        if tokens.take(",", "]") == "]":
            return


def _resolve_types(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Turn each type's word into a scalar type or a full name. A message's own enum hides one of the file."""
    messages = {message.name for message in file.message_type}
    enums = {enum.name for enum in file.enum_type}
    for message in file.message_type:
        own_enums = {enum.name for enum in message.enum_type}
        for field in message.field:
            word = field.type_name
            if word in _SCALARS:
                field.type = _SCALARS[word]
                field.ClearField("type_name")
            elif word in own_enums:
                field.type = _FIELD.TYPE_ENUM
                field.type_name = f".{file.package}.{message.name}.{word}"
            elif word in enums or word in messages:
                field.type = _FIELD.TYPE_ENUM if word in enums else _FIELD.TYPE_MESSAGE
                field.type_name = f".{file.package}.{word}"
            else:
                raise ValueError(f"proto schema: {message.name}.{field.name}: unknown type {word!r}")


def build_classes(file: descriptor_pb2.FileDescriptorProto) -> tuple:
    """(file descriptor, {message name: class}) in a private descriptor pool."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindFileByName(file.name)
    factory: Any = message_factory
    # GetMessageClass is new in protobuf 4.22; 5 has no GetPrototype any more.
    make = getattr(factory, "GetMessageClass", None) or factory.MessageFactory(pool).GetPrototype
    return descriptor, {name: make(message) for name, message in descriptor.message_types_by_name.items()}
