"""The PyTorch versions: the CPU engine, and what runs on a GPU without Triton."""
