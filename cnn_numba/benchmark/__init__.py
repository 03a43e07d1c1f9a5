"""The benchmark: our kernels against themselves in other modes, against NumPy, PyTorch and JAX.

    command       flags, and what happens with the results        report, plots   tables, JSON, pictures
    experiments   what is measured, in which order                networks        the networks and layers to measure
    process       one process per contender, rounds, medians      worker          what runs in such a process
    contender     what a worker can be asked for, and its answers by numba_cnn, numpy_cnn, torch_cnn, jax_cnn

The modules of the last line import their library only in the worker's process, and no other's: the memory, threads and
start-up time of one contender hold nothing of another.
"""
