"""Small real pictures, a small trained checkpoint, and the commands that make them."""
