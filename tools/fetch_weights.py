from ilgnet.cli.fetch_weights import main
from torchcaffe.base.errors import run_main

run_main(main)
