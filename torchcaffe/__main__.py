"""`python -m torchcaffe`: the same as the program `torchcaffe`."""

from torchcaffe.cli.main import main

main()
