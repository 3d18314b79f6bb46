"""The one exception for bad input, and how a program reports it."""

from __future__ import annotations

import sys
from typing import Callable


class CaffeError(RuntimeError):
    """Bad input: one line that names the file, the record or layer, and the field.

    A RuntimeError, since that is what pycaffe raises where it does not end the process."""


def run_main(main: Callable[[], int]) -> None:
    """Run a program's main and exit: 0 when done, 2 with one line on bad input, 130 on Ctrl-C."""
    try:
        code = main()
    except (CaffeError, OSError) as error:
        sys.stdout.flush()
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
