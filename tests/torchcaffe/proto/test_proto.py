"""torchcaffe.proto against real Caffe's schema (tests/bvlc/goldens/proto, made by tests/bvlc/make_proto_goldens.py)."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys

import google.protobuf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import ROOT
from tests.torchcaffe.proto.strategies import OURS, messages
from torchcaffe.base.errors import CaffeError
from torchcaffe.proto import caffe_pb2, format_text, parse_text
from torchcaffe.proto.schema import build_classes, parse_schema

from .make_stub import STUB, stub_text

GOLDEN = json.loads((ROOT / "tests/bvlc/goldens/proto/schema.json").read_text())
OWN = {"BNParameter", "BNParameter.Engine"}  # of public forks, not in BVLC's


def test_the_stub_is_what_the_schema_gives():
    assert STUB.read_text(encoding="utf-8") == stub_text()  # else: python -m tests.torchcaffe.proto.make_stub


def test_same_messages_and_enums_as_bvlc():
    assert set(OURS) - OWN == set(GOLDEN)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_same_fields_as_bvlc(name):
    ours = dict(OURS[name])
    if name == "LayerParameter":
        assert ours.pop("bn_param")[:3] == [1137, ".caffe.BNParameter", "optional"]
    assert ours == GOLDEN[name]


def test_module_looks_like_protocs():
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST, caffe_pb2.Phase.Value("TEST")) == (0, 1, 1)
    assert caffe_pb2.PoolingParameter.AVE == 1
    assert caffe_pb2.V1LayerParameter.LayerType.Name(4) == "CONVOLUTION"
    assert caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name["bn_param"].number == 1137
    assert caffe_pb2.PoolingParameter().stride == 1
    assert caffe_pb2.BNParameter().momentum == pytest.approx(0.9)


def test_messages_copy_and_pickle():
    net = caffe_pb2.NetParameter(name="n")
    net.layer.add(name="conv").blobs.add().data[:] = [1, 2]
    assert pickle.loads(pickle.dumps(net)) == net == copy.deepcopy(net)


@pytest.mark.parametrize("ours_first", [True, False])
def test_other_caffe_proto_in_the_default_pool(ours_first):
    """A real pycaffe registers caffe.NetParameter in protobuf's default pool; ours must not be in its way."""
    default = (
        "from google.protobuf import descriptor_pool as p, descriptor_pb2 as d\n"
        "f = d.FileDescriptorProto(name='caffe.proto', package='caffe')\n"
        "f.message_type.add(name='NetParameter')\n"
        "p.Default().AddSerializedFile(f.SerializeToString())\n"
        "p.Default().FindMessageTypeByName('caffe.NetParameter')\n"
    )
    ours = "from torchcaffe.proto import caffe_pb2\nassert caffe_pb2.NetParameter(name='x').name == 'x'\n"
    code = ours + default if ours_first else default + ours
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "text, error",
    [
        ("layer {\n  tipe: 1 }", '2:3: Message type "caffe.LayerParameter" has no field named "tipe".'),
        ("layer { type: 'a' type: 'b' }", '1:25: Message type "caffe.LayerParameter" should not have multiple "type"'),
        ("layer { phase: FOO }", "caffe.Phase"),
        ("layer { clip_param { min: 1 } }", "required fields are missing: layer[0].clip_param.max"),
        ("layer { name: ", "1:15: Expected string"),
        ("input_dim: 99999999999", "out of range"),
        ('name: "\\xff"', ""),
        ("\x00", "1:1: "),
    ],
)
def test_parse_errors_are_one_line_that_names_the_place(text, error):
    with pytest.raises(CaffeError) as caught:
        parse_text(text, caffe_pb2.NetParameter(), "net.prototxt")
    line = str(caught.value)
    assert line.startswith("net.prototxt:") and error in line and line.isprintable()


def test_parse_text_replaces_the_message():
    message = caffe_pb2.NetState(level=3)
    assert parse_text("stage: 'a'", message, "s") is message
    assert message == caffe_pb2.NetState(stage=["a"])


@pytest.mark.parametrize("value, text", [
    (0.1, "0.1"), (1.0, "1"), (1e-5, "1e-05"), (100000.0, "100000"), (1e6, "1e+06"), (16777216.0, "16777216"),
    (0.30000001192, "0.3"), (1 / 3, "0.333333343"), (-0.0, "-0"), (math.inf, "inf"), (math.nan, "nan"),
    (3.4028234663852886e38, "3.40282347e+38"),
])  # fmt: skip
def test_floats_print_as_in_cpp(value, text):
    assert format_text(caffe_pb2.PowerParameter(shift=value)) == f"shift: {text}\n"


def test_strings_print_as_in_cpp():
    assert format_text(caffe_pb2.NetState(stage=["a\"b'\\\n\t\r\x01é"])) == (
        'stage: "a\\"b\\\'\\\\\\n\\t\\r\\001\\303\\251"\n'
    )


def test_bad_schema_is_refused():
    for text in (
        "message A { optional B b = 1; }",
        "service A {}",
        "message A { optional int32 x = 1 [lazy = true]; }",
    ):
        with pytest.raises((ValueError, TypeError)):  # TypeError: protobuf's, for an unknown type
            build_classes(parse_schema(text, "a.proto"))


# ---- fuzzing ----

_MAX_FLOAT32 = 3.4028234663852886e38


@given(st.sampled_from(["NetParameter", "SolverParameter", "LayerParameter", "V1LayerParameter"]).flatmap(messages))
def test_text_round_trip(message):
    text = format_text(message)
    if str(_MAX_FLOAT32)[:6] in text and google.protobuf.__version__ < "3.13":
        return  # this release's Python code reads the largest float32 as infinite
    assert parse_text(text, type(message)(), "t") == message


_WORDS = st.sampled_from(
    'name layer layers type { } : ; , < > [ ] " \' "a" "\\ 1 -1 1e9 0x1f .5 inf nan true TRAIN phase param dim shape '
    "blobs data input_dim state level 99999999999999999999 # \n \x00 é / any.type/url".split(" ")
)


@given(st.text(max_size=40) | st.lists(_WORDS, max_size=20).map(" ".join))
def test_any_text_parses_or_is_refused_in_one_line(text):
    message = caffe_pb2.NetParameter()
    try:
        parse_text(text, message, "net.prototxt")
    except CaffeError as error:
        assert str(error).startswith("net.prototxt:") and str(error).isprintable()
    else:
        assert parse_text(format_text(message), caffe_pb2.NetParameter(), "again") == message or "nan" in text
