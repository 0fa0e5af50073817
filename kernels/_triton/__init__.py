"""The Triton versions. Triton is imported when one of them is first used, never before.

It reads fine vectors in pinned host memory in place: a gather over PCIe, with no staged copy.
"""
