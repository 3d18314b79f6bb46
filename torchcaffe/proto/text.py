"""Protobuf's text format, read and written the same way under every release of protobuf."""

from __future__ import annotations

import operator
import re
import struct

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor

from torchcaffe.base.errors import CaffeError

if hasattr(FieldDescriptor, "is_repeated"):  # newer protobuf; `label` is gone in 7
    _is_repeated = operator.attrgetter("is_repeated")
else:

    def _is_repeated(field) -> bool:
        return field.label == FieldDescriptor.LABEL_REPEATED


# protobuf's "line:column : reason", in some places with a quotation of the rest of the line, which may be empty
_POSITION = re.compile(r"(?:(\d+:\d+) ?: *)?(?:'': )?(.*)")

_ESCAPED = [chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in range(256)]
for _byte, _text in ((b"\n", "\\n"), (b"\r", "\\r"), (b"\t", "\\t"), (b'"', '\\"'), (b"'", "\\'"), (b"\\", "\\\\")):
    _ESCAPED[_byte[0]] = _text


def parse_text(text: str, message, source: str):
    """Fills `message` from its text form and returns it.

    Raises CaffeError("source:line:column: reason"); `source` names the text, usually by its path. As in Caffe, a
    required field that is missing is an error.
    """
    message.Clear()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        position, reason = _POSITION.match(_one_line(error)).groups()
        raise CaffeError(f"{source}:{position}: {reason}" if position else f"{source}: {reason}") from None
    except (ValueError, RecursionError, SystemError) as error:  # no UTF-8, numbers out of range, in some releases
        raise CaffeError(f"{source}: {_one_line(error)}") from None
    if not message.IsInitialized():
        missing = ", ".join(message.FindInitializationErrors())
        raise CaffeError(f"{source}: required fields are missing: {missing}")
    return message


def _one_line(error: Exception) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))


def format_text(message) -> str:
    """The message's text form, as Caffe itself prints it (C++ protobuf): fields by number, the shortest float that
    reads back, everything but printable ASCII escaped. Fields that the schema does not know are left out."""
    lines: list[str] = []
    _format_message(message, "", lines)
    return "".join(lines)


def _format_message(message, indent: str, lines: list[str]) -> None:
    for field, value in message.ListFields():
        for item in value if _is_repeated(field) else [value]:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                lines.append(f"{indent}{field.name} {{\n")
                _format_message(item, indent + "  ", lines)
                lines.append(f"{indent}}}\n")
            else:
                lines.append(f"{indent}{field.name}: {_format_scalar(field, item)}\n")


def _format_scalar(field, value) -> str:
    kind = field.type
    if kind == FieldDescriptor.TYPE_ENUM:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else str(value)
    if kind == FieldDescriptor.TYPE_BOOL:
        return "true" if value else "false"
    if kind == FieldDescriptor.TYPE_FLOAT:
        return format_float(value)
    if kind == FieldDescriptor.TYPE_DOUBLE:
        short = f"{value:.15g}"
        return short if value != value or float(short) == value else f"{value:.17g}"
    if kind == FieldDescriptor.TYPE_STRING:
        return _quote(value.encode("utf-8"))
    if kind == FieldDescriptor.TYPE_BYTES:
        return _quote(value)
    return str(value)


def format_float(value: float) -> str:
    """A float32 as C++ protobuf prints it: 6 digits where they read back as the same float32, else 9."""
    short = f"{value:.6g}"
    return short if value != value or _to_float32(float(short)) == value else f"{value:.9g}"


def _to_float32(value: float) -> float:
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:  # 6 digits of the largest float32 round up beyond it
        return float("inf")


def _quote(data: bytes) -> str:
    return '"' + "".join([_ESCAPED[byte] for byte in data]) + '"'
