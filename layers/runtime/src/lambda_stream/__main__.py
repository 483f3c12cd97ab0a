"""`python -m lambda_stream`: the process that Lambda's exec wrapper starts."""

import sys

from lambda_stream.start import main

if __name__ == "__main__":
    sys.exit(main())
