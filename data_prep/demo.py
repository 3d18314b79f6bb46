from ilgnet.cli.demo import main
from torchcaffe.base.errors import run_main

if __name__ == "__main__":  # worker processes import this file, too
    run_main(main)
