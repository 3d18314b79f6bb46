"""torchcaffe.formats.upgrade against BVLC's upgrade programs.

tests/bvlc/make_upgrade_goldens.py makes tests/bvlc/goldens/upgrade/*.out.prototxt and *.log of the *.in.prototxt there.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import GOLDENS
from tests.torchcaffe.proto.strategies import messages
from torchcaffe.base.errors import CaffeError
from torchcaffe.cli.programs import PROGRAMS
from torchcaffe.formats import upgrade
from torchcaffe.proto import caffe_pb2, format_text, parse_text, types

FOLDER = GOLDENS / "upgrade"
CASES = sorted(path.name[: -len(".in.prototxt")] for path in FOLDER.glob("*.in.prototxt"))


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """The lines logged, less time and thread."""
    lines: list[str] = []
    for name, letter in (("info", "I"), ("warning", "W"), ("error", "E")):
        monkeypatch.setattr(
            upgrade.log, name, lambda source, text, letter=letter: lines.append(f"{letter} {source}] {text}")
        )
    return lines


def _without_line(text: str) -> str:
    """BVLC has one line of code per unknown setting; we do not."""
    return re.sub(r":\d+\] (Unknown parameter)", r"] \1", text)


@pytest.mark.parametrize("name", CASES)
def test_same_file_log_and_exit_status_as_bvlc(name, logged, tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr("torchcaffe.formats.files.write_bytes", lambda path, data: (tmp_path / path).write_bytes(data))
    program = PROGRAMS[f"upgrade_{'solver' if name.startswith('solver_') else 'net'}_proto_text"]
    arguments = [f"{name}.in.prototxt", f"{name}.out.prototxt"]
    status, *expected = (FOLDER / f"{name}.log").read_text().splitlines()
    if status in ("exit -6", "exit 2"):  # BVLC aborted, or could not parse
        with pytest.raises(CaffeError, match=rf"^{name}\.in\.prototxt:"):
            program(arguments)
        assert logged == expected[:-1] and not list(tmp_path.iterdir())
        return
    assert f"exit {program(arguments)}" == status
    assert (tmp_path / arguments[1]).read_bytes() == (FOLDER / arguments[1]).read_bytes()
    assert list(map(_without_line, logged)) == list(map(_without_line, expected))


def test_every_old_type_is_covered():
    v0 = (FOLDER / "v0_all.in.prototxt").read_text()
    assert all(f'type: "{name}"' in v0 for name in types.V0_TYPES)
    assert set(types.V1_TYPE_NAMES) == set(caffe_pb2.V1LayerParameter.LayerType.keys())
    v1 = (FOLDER / "v1_all.in.prototxt").read_text()
    assert all(f"type: {name} " in v1 for name in types.V1_TYPE_NAMES)
    fields = {field.name for field in caffe_pb2.V0LayerParameter.DESCRIPTOR.fields}
    assert all(f"{name}:" in v0 or f"{name} {{" in v0 for name in fields - {"new_num", "new_channels"})


@pytest.mark.parametrize("name", [name for name in CASES if (FOLDER / f"{name}.out.prototxt").exists()])
def test_upgraded_is_a_fixed_point(name, logged):
    text = (FOLDER / f"{name}.out.prototxt").read_text()
    if name.startswith("solver_"):
        solver = parse_text(text, caffe_pb2.SolverParameter(), name)
        assert format_text(upgrade.upgrade_solver(solver, name)) == text and not logged
    else:
        assert format_text(upgrade.parse_net(text, name)) == text


@pytest.mark.parametrize(
    "text, words",
    [
        ('input: "a" input_dim: 1', "n.prototxt: shapes of 0 inputs, not of 1 (input_dim: 4 for each)"),
        ('input: "a" input: "b" input_shape { }', "n.prototxt: shapes of 1 inputs, not of 2 (input_dim: 4 for each)"),
        ('layers { layer { name: "x" type: "y" } }', "n.prototxt: V0 layer 'x': Unknown layer name: y"),
        ('layers { layer { name: "x" } bottom: "b" }', "n.prototxt: V0 layer 'x': Unknown blob input b"),
        (
            'layers { layer { name: "x" type: "images" new_height: -10 } }',
            "n.prototxt: V0 layer 'x': new_height: -10, 0 or more expected",
        ),
    ],
)
def test_what_bvlc_does_not_survive_is_one_line(text, words, logged):
    with pytest.raises(CaffeError) as caught:
        upgrade.parse_net(text, "n.prototxt")
    assert str(caught.value) == words


def test_reading_files(tmp_path, logged):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b'\xef\xbb\xbfname: "n" # any encoding in comments: \xff\n')
    assert upgrade.read_net(path).name == "n" and upgrade.read_net(str(path)).name == "n"
    for data, words in (
        (b'name: "\xff"', "net.prototxt"),
        (b"nam: 1", ':1:1: Message type "caffe.NetParameter"'),
        (b"\0", "binary"),
    ):
        path.write_bytes(data)
        with pytest.raises(CaffeError, match=re.escape(words)):
            upgrade.read_net(path)
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(CaffeError, match=f"^{re.escape(str(missing))}: "):
            upgrade.read_solver(missing)


def test_snapshot_prefix(tmp_path, logged, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir").mkdir()
    # Seen in BVLC: ./a.b.prototxt without a prefix, and c.prototxt with `snapshot_prefix: "dir/"`.
    Path("a.b.prototxt").write_text('net: "n"')
    Path("c.prototxt").write_text('net: "n" snapshot_prefix: "dir/"')
    Path("d.prototxt").write_text('net: "n" snapshot_prefix: "dir/x" solver_type: ADAM')
    assert upgrade.read_solver("./a.b.prototxt").snapshot_prefix == "./a.b"
    assert upgrade.read_solver("c.prototxt").snapshot_prefix == "dir/c"
    assert logged == [
        "I upgrade_proto.cpp:1108] snapshot_prefix was not specified and is set to ./a.b",
        "I upgrade_proto.cpp:1113] snapshot_prefix was a directory and is replaced to dir/c",
    ]
    solver = upgrade.read_solver("d.prototxt")
    assert (solver.snapshot_prefix, solver.type) == ("dir/x", "Adam")


def test_binary_program(tmp_path, logged):
    net = caffe_pb2.NetParameter()
    layer = net.layers.add(name="c", type=4)
    layer.blobs.add(num=1, channels=1, height=1, width=2).data[:] = [1, 2]
    source, result = tmp_path / "old.caffemodel", tmp_path / "new.caffemodel"
    source.write_bytes(net.SerializeToString())
    assert PROGRAMS["upgrade_net_proto_binary"]([str(source), str(result)]) == 0
    upgraded = caffe_pb2.NetParameter.FromString(result.read_bytes())
    assert (upgraded.layer[0].type, list(upgraded.layer[0].blobs[0].data), len(upgraded.layers)) == (
        "Convolution",
        [1, 2],
        0,
    )
    assert logged[-1] == f"I upgrade_net_proto_binary.cpp:49] Wrote upgraded NetParameter binary proto to {result}"
    source.write_bytes(b"\xff\xff")
    with pytest.raises(CaffeError, match="not a binary NetParameter"):
        PROGRAMS["upgrade_net_proto_binary"]([str(source), str(result)])


def test_usage(capsys):
    assert PROGRAMS["upgrade_net_proto_text"]([]) == PROGRAMS["upgrade_solver_proto_text"](["a"]) == 1
    assert capsys.readouterr().err == (
        "Usage: upgrade_net_proto_text v0_net_proto_file_in net_proto_file_out\n"
        "Usage: upgrade_solver_proto_text old_solver_proto_file_in solver_proto_file_out\n"
    )


def test_current_type():
    pairs = [("V0", "conv"), ("V1", "23"), ("current", "BNLL"), ("V0", "odd"), ("V1", "99"), ("V1", "")]
    assert [types.current_type(*pair) for pair in pairs] == ["Convolution", "TanH", "BNLL", "odd", "99", ""]


@given(net=messages("NetParameter"))
def test_any_net_is_upgraded_or_refused(net, logged):
    try:
        upgrade.upgrade_net(net, "n")
    except CaffeError as error:
        assert str(error).startswith("n: ")
    else:
        assert not net.layers and not net.input


@given(data=st.binary(max_size=200) | messages("NetParameter").map(lambda net: net.SerializeToString()[:-1]))
def test_any_bytes_are_a_net_or_refused(data, tmp_path):
    path = tmp_path / "n.caffemodel"
    path.write_bytes(data)
    try:
        upgrade.upgrade_net(upgrade.read_net_binary(path), "n")
    except CaffeError as error:
        assert "\n" not in str(error)
