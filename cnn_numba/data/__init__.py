"""Data sets: read from files, downloaded when they are missing, or shipped with the package."""

from cnn_numba.data.catalogue import data_folder, load_dataset
from cnn_numba.data.dataset import Dataset

__all__ = ["Dataset", "data_folder", "load_dataset"]
