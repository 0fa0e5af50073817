"""Speed and recall reports; each file is a command: `python -m benchmarks.NAME`."""
