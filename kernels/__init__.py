"""The hot loops: one file per operation, forward beside backward, on vectors of images (see `lanes`).

The alphabet, used in every kernel:

    n, N    image block, number of blocks           i, j    row, column of an output (or of the gradient of an input)
    l       lane: one image of a block              p, q    row, column inside a convolution or pooling window
    c, C    channel, channels of the input          f, F    filter (output channel), filters
    H, W    rows, columns of the input              KH, KW  rows, columns of the window
    OH, OW  rows, columns of the output             T       register tile: T.rows x T.cols sums at a time
    k, K    feature, features of a dense input      o, O    unit, units of a dense output

An image tensor is float32 (N, C, H, W, LANES), a feature vector (N, K, LANES): every number of the textbook algorithm
is a vector of LANES images.  A kernel is `name(item, *outputs, *inputs, *scalars)`: `item` selects the part of the
output that it computes.  No two items of a call write the same element, except where tiles overlap: those write the
same numbers.
"""
if __name__ == "kernels":
    raise ImportError("the kernels are part of cnn_numba: import cnn_numba.kernels instead of kernels")
