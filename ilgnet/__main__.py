"""`python -m ilgnet`: the same as the program `ilgnet`."""

from ilgnet.cli.main import run

run()
