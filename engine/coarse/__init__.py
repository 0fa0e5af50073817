"""How coarse vectors are made: reduced from fine ones, rounded to int8."""
