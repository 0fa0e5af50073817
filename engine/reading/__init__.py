"""Every format that sources come in, read once."""
