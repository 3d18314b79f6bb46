"""Caffe's file formats: message classes (torchcaffe.proto.caffe_pb2) and their text form."""

from torchcaffe.proto.text import format_text, parse_text

__all__ = ["format_text", "parse_text"]
