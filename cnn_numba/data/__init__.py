"""Data sets: read from files, downloaded when they are missing, or shipped with the package."""

from cnn_numba.data.catalogue import data_folder, load_dataset, load_images
from cnn_numba.data.dataset import Dataset
from cnn_numba.data.formats import Format, register_format

__all__ = ["Dataset", "Format", "data_folder", "load_dataset", "load_images", "register_format"]
