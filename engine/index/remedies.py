"""What to do about an index that is damaged."""

RESTORE = "Restore it, or build the index again."
VERIFY = "`python -m engine info INDEX --verify` names the damaged file: restore it."
