"""How right an answer is: calibration, certificate, guarantee, curve."""
