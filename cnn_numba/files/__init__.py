"""Files of this program: written whole or not at all, and read without trusting them."""
