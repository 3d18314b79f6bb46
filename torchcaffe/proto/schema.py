"""Builds protobuf message classes from a .proto file's text at import, without protoc.

protoc's output works with some protobuf releases only; a FileDescriptorProto made here works with all of them.
The classes have their own descriptor pool: a real pycaffe registers its caffe.proto in protobuf's default pool, and two
definitions of `caffe.NetParameter` in one pool are an error.
"""

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = ("double", "float", "int32", "int64", "uint32", "uint64", "bool", "string", "bytes")
# The statements of Caffe's schema. The last alternative closes a message or an enum.
_STATEMENT = re.compile(
    r"""\s* (?: //[^\n]*
    | syntax \s*=\s* "proto2" \s*;
    | package \s+ (?P<package>\w+) \s*;
    | (?P<kind>message|enum) \s+ (?P<opened>\w+) \s* {
    | (?P<label>optional|required|repeated) \s+ (?P<type>\w+) \s+ (?P<field>\w+) \s*=\s* (?P<field_number>\d+) \s*
      (?: \[ \s* (?: packed \s*=\s* (?P<packed>true) | default \s*=\s* (?P<default>"[^"]*"|[\w.+-]+) ) \s* \] \s* )? ;
    | (?P<value>\w+) \s*=\s* (?P<number>-?\d+) \s*;
    | } )\s*""",
    re.VERBOSE,
)


def parse_schema(text: str, file_name: str) -> descriptor_pb2.FileDescriptorProto:
    """Parse the part of proto2 that Caffe's schema uses: messages, nested enums, scalar, message and enum fields,
    `default` or `packed`. Raises ValueError for anything else. protobuf itself resolves the types' names."""
    file = descriptor_pb2.FileDescriptorProto(name=file_name)
    inside: list[Any] = [file]  # the file and the open messages or enums
    position = 0
    while position < len(text):
        found = _STATEMENT.match(text, position)
        if not found:
            raise ValueError(f"proto schema: cannot read {text[position : position + 40]!r}")
        position = found.end()
        if found["package"]:
            file.package = found["package"]
        elif found["kind"]:
            inside.append(getattr(inside[-1], f"{found['kind']}_type").add(name=found["opened"]))
        elif found["label"]:
            field = inside[-1].field.add(name=found["field"], number=int(found["field_number"]))
            field.label = _FIELD.Label.Value(f"LABEL_{found['label'].upper()}")
            if found["type"] in _SCALARS:
                field.type = _FIELD.Type.Value(f"TYPE_{found['type'].upper()}")
            else:
                field.type_name = found["type"]
            if found["packed"]:
                field.options.packed = True
            if found["default"]:
                field.default_value = found["default"].strip('"')
        elif found["value"]:
            inside[-1].value.add(name=found["value"], number=int(found["number"]))
        elif found[0].strip() == "}":
            inside.pop()
    return file


def build_classes(file: descriptor_pb2.FileDescriptorProto) -> tuple:
    """(file descriptor, {message name: class}) in a private descriptor pool."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindFileByName(file.name)
    factory: Any = message_factory
    # GetMessageClass is new in protobuf 4.22; 5 has no GetPrototype any more.
    make = getattr(factory, "GetMessageClass", None) or factory.MessageFactory(pool).GetPrototype
    return descriptor, {name: make(message) for name, message in descriptor.message_types_by_name.items()}
