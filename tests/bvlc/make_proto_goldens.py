"""Writes tests/bvlc/goldens/proto/: what real Caffe says about its schema. Run by a Python that has BVLC's pycaffe:

python3 tests/bvlc/make_proto_goldens.py tests/bvlc/goldens/proto
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2


def schema_table(file_bytes: bytes) -> dict:
    """{message: {field: [number, type, label, default or None, packed or None]}, enum: {value: number}} of a serialised
    FileDescriptorProto. test_proto.py makes the same table of ours."""
    file = descriptor_pb2.FileDescriptorProto.FromString(file_bytes)
    names = descriptor_pb2.FieldDescriptorProto
    table = {enum.name: {value.name: value.number for value in enum.value} for enum in file.enum_type}
    for message in file.message_type:
        for enum in message.enum_type:
            table[message.name + "." + enum.name] = {value.name: value.number for value in enum.value}
        table[message.name] = {
            field.name: [
                field.number,
                field.type_name or names.Type.Name(field.type)[5:].lower(),
                names.Label.Name(field.label)[6:].lower(),
                default_value(field),
                field.options.packed if field.options.HasField("packed") else None,
            ]
            for field in message.field
        }
    return table


def default_value(field: descriptor_pb2.FieldDescriptorProto):
    """None where there is none. Releases of protobuf write floats with 6 or with 9 digits, so compare the float32."""
    if not field.HasField("default_value"):
        return None
    if field.type == field.TYPE_FLOAT:
        return struct.unpack("f", struct.pack("f", float(field.default_value)))[0]
    return field.default_value


def main(folder: Path) -> None:
    from caffe.proto import caffe_pb2

    table = schema_table(caffe_pb2.DESCRIPTOR.serialized_pb)
    entries = [f'"{name}": {json.dumps(table[name])}' for name in sorted(table)]
    (folder / "schema.json").write_text("{\n" + ",\n".join(entries) + "\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
