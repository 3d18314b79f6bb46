"""Protobuf's text format, read and written the same way under every release of protobuf."""

import re
import struct
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from torchcaffe.base.errors import CaffeError

# protobuf's "line:column : reason", sometimes with a quotation of the rest of the line, which may be empty
_POSITION = re.compile(r"(?:(\d+:\d+) ?: *)?(?:'': )?(.*)")

_ESCAPED = [chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in range(256)]
for _byte, _text in ((b"\n", "\\n"), (b"\r", "\\r"), (b"\t", "\\t"), (b'"', '\\"'), (b"'", "\\'"), (b"\\", "\\\\")):
    _ESCAPED[_byte[0]] = _text


AnyMessage = TypeVar("AnyMessage", bound=Message)


def parse_text(text: str, message: AnyMessage, source: str) -> AnyMessage:
    """Fill `message` from its text form, and return it.

    source: the text's name, usually its path. Raises CaffeError("source:line:column: reason"). As in Caffe, a missing
    required field is an error."""
    message.Clear()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        match = _POSITION.match(_one_line(error))
        assert match  # it matches any line
        position, reason = match.groups()
        raise CaffeError(f"{source}:{position}: {reason}" if position else f"{source}: {reason}") from None
    except (
        ValueError,
        RecursionError,
        SystemError,
    ) as error:  # of some releases
        raise CaffeError(f"{source}: {_one_line(error)}") from None
    if not message.IsInitialized():
        incomplete: Any = message
        missing = ", ".join(incomplete.FindInitializationErrors())
        raise CaffeError(f"{source}: required fields are missing: {missing}")
    return message


def _one_line(error: Exception) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))


def format_text(message: Message) -> str:
    """The message's text form as Caffe prints it (C++ protobuf): fields by number, the shortest float that reads back,
    everything but printable ASCII escaped. Unknown fields are left out."""
    lines: list[str] = []
    _format_message(message, "", lines)
    return "".join(lines)


def _is_repeated(field: Any) -> bool:
    # protobuf 7 has no `label`; old ones have no `is_repeated`
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED


def _format_message(message: Message, indent: str, lines: list[str]) -> None:
    for field, value in message.ListFields():
        for item in value if _is_repeated(field) else [value]:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                lines.append(f"{indent}{field.name} {{\n")
                _format_message(item, indent + "  ", lines)
                lines.append(f"{indent}}}\n")
            else:
                lines.append(f"{indent}{field.name}: {_format_scalar(field, item)}\n")


def _format_scalar(field: Any, value: Any) -> str:
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
    """A float32 as C++ protobuf prints it: with 6 digits if they read back as the same float32, else with 9."""
    short = f"{value:.6g}"
    return short if value != value or _to_float32(float(short)) == value else f"{value:.9g}"


def _to_float32(value: float) -> float:
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:  # the largest float32, rounded up to 6 digits
        return float("inf")


def _quote(data: bytes) -> str:
    return '"' + "".join([_ESCAPED[byte] for byte in data]) + '"'
