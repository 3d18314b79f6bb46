import sys

sys.path.insert(0, f"{sys.path[0]}/..")

from ilgnet.cli.main import run

run("summarize")
