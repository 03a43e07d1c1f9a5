"""The benchmark: the kernels in all their modes, beside NumPy, PyTorch and JAX.

    experiments   what is measured, in which order                  networks        the networks and layers to measure
    bench         what all experiments share                        process         one process per contender, in turns
    report, plots tables, JSON, pictures                            worker          what runs in such a process
    contender     the requests to a worker, which are answered by numba_cnn, numpy_cnn, torch_cnn, jax_cnn

Only the worker of a contender imports its library, so that contenders share neither memory nor threads nor start-up
time.  NumPy's process imports Numba, too: its forward pass is that of the layers of this program.
"""
