"""Tests of engine/coarse."""
