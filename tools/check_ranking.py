from ilgnet.cli.check_ranking import main
from torchcaffe.base.errors import run_main

run_main(main)
