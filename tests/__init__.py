"""The proofs: they mirror the sources, folder by folder."""
