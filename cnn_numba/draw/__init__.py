"""A page on which one draws for a network, and sees what its layers make of it."""
from cnn_numba.draw.page import exported_page, served_page
from cnn_numba.draw.server import serve

__all__ = ["exported_page", "serve", "served_page"]
