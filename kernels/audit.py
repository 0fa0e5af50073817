"""`python -m kernels.audit`: what the Triton kernels compile to, with no GPU.

The work is in `kernels/_triton/audit.py`: triton is imported in that folder only.
"""

from __future__ import annotations

import sys

from kernels._triton.audit import main

if __name__ == "__main__":
    sys.exit(main())
