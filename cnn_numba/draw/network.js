// The forward pass of a network, for one image.  Each layer is the textbook loop; sums are in float64.
//
// A value is {shape, values}: shape [channels, rows, columns] or [features], values a Float32Array in that order.
"use strict";

const pair = (value) => Array.isArray(value) ? value : [value, value];
const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
const zeros = (shape) => ({shape, values: new Float32Array(product(shape))});
const image = (shape) => shape.length === 3 ? shape : [shape[0], 1, 1];

function map(x, f) {
    return {shape: x.shape, values: x.values.map(f)};
}

// The image with rows and columns of a number around it.
function padded(x, [top, bottom, left, right], fill = 0) {
    const [channels, rows, columns] = x.shape;
    const y = zeros([channels, rows + top + bottom, columns + left + right]);
    y.values.fill(fill);
    for (let c = 0; c < channels; c++)
        for (let i = 0; i < rows; i++) {
            const from = (c * rows + i) * columns;
            y.values.set(x.values.subarray(from, from + columns), (c * y.shape[1] + i + top) * y.shape[2] + left);
        }
    return y;
}

function sides(padding, kernel, dilation) {
    if (padding === "valid") return [0, 0, 0, 0];
    if (padding === "same")
        return kernel.flatMap((k, axis) => {
            const both = dilation[axis] * (k - 1), first = Math.floor(both / 2);
            return [first, both - first];
        });
    const [rows, columns] = pair(padding);
    return [rows, rows, columns, columns];
}

function convolution(x, p, {weight, bias}) {
    const kernel = pair(p.kernel_size), [down, across] = pair(p.stride), [dilateRows, dilateColumns] = pair(p.dilation);
    const {values, shape: [, height, width]} = padded(x, sides(p.padding, kernel, pair(p.dilation)));
    const [filters, channels] = weight.shape;
    const rows = Math.floor((height - dilateRows * (kernel[0] - 1) - 1) / down) + 1;
    const columns = Math.floor((width - dilateColumns * (kernel[1] - 1) - 1) / across) + 1;
    const y = zeros([filters, rows, columns]), sum = new Float64Array(rows * columns);
    for (let f = 0, tap = 0; f < filters; f++) {
        const first = Math.floor(f / (filters / p.groups)) * channels;
        sum.fill(bias ? bias.values[f] : 0);
        for (let c = first; c < first + channels; c++)
            for (let k = 0; k < kernel[0]; k++)
                for (let l = 0; l < kernel[1]; l += 3) {        // three taps at a time: twice as fast as one
                    const taps = Math.min(3, kernel[1] - l);
                    const [one, two, three] = [0, 1, 2].map((t) => t < taps ? weight.values[tap + t] : 0);
                    const [second, third] = [1, 2].map((t) => t < taps ? t * dilateColumns : 0);
                    tap += taps;
                    for (let i = 0; i < rows; i++) {
                        let from = (c * height + i * down + k * dilateRows) * width + l * dilateColumns;
                        for (let j = i * columns; j < (i + 1) * columns; j++, from += across)
                            sum[j] += one * values[from] + two * values[from + second] + three * values[from + third];
                    }
                }
        y.values.set(sum, f * rows * columns);
    }
    return y;
}

// Each pixel of x adds its weighted window to y, as in the gradient of a convolution.
function transposedConvolution(x, p, {weight, bias}) {
    const [stride, padding, more, dilation] = [p.stride, p.padding, p.output_padding, p.dilation].map(pair);
    const [, , ...kernel] = weight.shape, [channels, height, width] = x.shape, each = channels / p.groups;
    const [rows, columns] = [0, 1].map((a) =>
        (x.shape[a + 1] - 1) * stride[a] - 2 * padding[a] + dilation[a] * (kernel[a] - 1) + more[a] + 1);
    const filters = p.out_channels / p.groups, sum = new Float64Array(p.out_channels * rows * columns);
    sum.forEach((_, k) => { sum[k] = bias ? bias.values[Math.floor(k / (rows * columns))] : 0; });
    for (let c = 0, tap = 0; c < channels; c++)
        for (let f = Math.floor(c / each) * filters, end = f + filters; f < end; f++)
            for (let k = 0; k < kernel[0]; k++)
                for (let l = 0; l < kernel[1]; l++) {
                    const number = weight.values[tap++];
                    for (let i = 0; i < height; i++)
                        for (let j = 0; j < width; j++) {
                            const row = i * stride[0] - padding[0] + k * dilation[0];
                            const column = j * stride[1] - padding[1] + l * dilation[1];
                            if (row < 0 || row >= rows || column < 0 || column >= columns) continue;
                            sum[(f * rows + row) * columns + column] += number * x.values[(c * height + i) * width + j];
                        }
                }
    return {shape: [p.out_channels, rows, columns], values: Float32Array.from(sum)};
}

// The rows or columns [begin, end) that each window of a pooling layer begins and ends with.
function windows(size, kernel, stride, padding, dilation, ceil) {
    const room = size + 2 * padding - dilation * (kernel - 1) - 1;
    const last = ceil ? Math.min(Math.ceil(room / stride), Math.floor((size + padding - 1) / stride))
        : Math.floor(room / stride);
    return Array.from({length: last + 1}, (_, i) => [i * stride - padding, i * stride - padding + kernel]);
}

// Combines the numbers of each window: f(numbers, row window, column window).  Those outside the image are left out.
function pooled(x, rowWindows, columnWindows, dilation, f) {
    const [channels, height, width] = x.shape, y = zeros([channels, rowWindows.length, columnWindows.length]);
    let to = 0;
    for (let c = 0; c < channels; c++)
        for (const [top, bottom] of rowWindows)
            for (const [left, right] of columnWindows) {
                const seen = [];
                for (let k = 0; k < bottom - top; k++)
                    for (let l = 0; l < right - left; l++) {
                        const i = top + k * dilation[0], j = left + l * dilation[1];
                        if (i >= 0 && i < height && j >= 0 && j < width)
                            seen.push(x.values[(c * height + i) * width + j]);
                    }
                y.values[to++] = f(seen, [top, bottom], [left, right]);
            }
    return y;
}

function poolWindows(x, p) {
    const [kernel, stride, padding, dilation] = [p.kernel_size, p.stride, p.padding, p.dilation ?? 1].map(pair);
    return [0, 1].map((a) => windows(x.shape[a + 1], kernel[a], stride[a], padding[a], dilation[a], p.ceil_mode));
}

const total = (numbers) => numbers.reduce((a, b) => a + b, 0);

// (x - mean) / sqrt(variance + eps) in groups of equal size, then weight and bias: one for each `each` numbers.
function normalised(x, p, {weight, bias, running_mean, running_var}, groups, each) {
    const y = zeros(x.shape), size = x.values.length / groups;
    for (let g = 0; g < groups; g++) {
        const numbers = x.values.subarray(g * size, (g + 1) * size);
        let mean = 0, variance = 0;
        if (running_mean) [mean, variance] = [running_mean.values[g], running_var.values[g]];
        else {
            for (const number of numbers) mean += number / size;
            for (const number of numbers) variance += (number - mean) ** 2 / size;
        }
        const scale = 1 / Math.sqrt(variance + p.eps);
        for (let k = 0, at = g * size; k < size; k++, at++) {
            const parameter = Math.floor(at / each);
            y.values[at] = (numbers[k] - mean) * scale * (weight ? weight.values[parameter] : 1)
                + (bias ? bias.values[parameter] : 0);
        }
    }
    return y;
}

function logSoftmax(x) {
    const [channels, rows, columns] = image(x.shape), size = rows * columns, y = zeros(x.shape);
    for (let i = 0; i < size; i++) {
        let most = -Infinity, sum = 0;
        for (let at = i; at < channels * size; at += size) most = Math.max(most, x.values[at]);
        for (let at = i; at < channels * size; at += size) sum += Math.exp(x.values[at] - most);
        for (let at = i; at < channels * size; at += size) y.values[at] = x.values[at] - most - Math.log(sum);
    }
    return y;
}

// Abramowitz and Stegun 7.1.26; the error is below 1.5e-7.
function erf(v) {
    const t = 1 / (1 + 0.3275911 * Math.abs(v));
    const sum = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return Math.sign(v) * (1 - sum * Math.exp(-v * v));
}

const sigmoid = (v) => 1 / (1 + Math.exp(-v));

// {type: f(x, parameters, {name: tensor}, branch)} -> y; branch(name) runs the layers inside
// this one on x; containers run their branches in the order in which Python has them.
const LAYERS = {
    Conv2d(x, p, tensors) { return convolution(x, p, tensors); },
    ConvTranspose2d(x, p, tensors) { return transposedConvolution(x, p, tensors); },
    Linear(x, p, {weight, bias}) {
        const y = zeros([p.out_features]);
        for (let f = 0, at = 0; f < p.out_features; f++) {
            let sum = bias ? bias.values[f] : 0;
            for (let k = 0; k < p.in_features; k++) sum += weight.values[at++] * x.values[k];
            y.values[f] = sum;
        }
        return y;
    },
    MaxPool2d(x, p) {
        const most = (seen) => seen.reduce((a, b) => Math.max(a, b), -Infinity);
        return pooled(x, ...poolWindows(x, p), pair(p.dilation), most);
    },
    AvgPool2d(x, p) {
        const padding = pair(p.padding), [, height, width] = x.shape;
        const length = ([begin, end], size, pad) => Math.min(end, size + pad) - begin;
        const area = (row, column) => length(row, height, padding[0]) * length(column, width, padding[1]);
        return pooled(x, ...poolWindows(x, p), [1, 1], (seen, row, column) =>
            total(seen) / (p.divisor_override ?? (p.count_include_pad ? area(row, column) : seen.length)));
    },
    AdaptiveAvgPool2d(x, p) {
        const spans = pair(p.output_size).map((count, axis) => {
            const size = x.shape[axis + 1];
            return Array.from({length: count ?? size}, (_, i) =>
                [Math.floor(i * size / (count ?? size)), Math.ceil((i + 1) * size / (count ?? size))]);
        });
        return pooled(x, ...spans, [1, 1], (seen) => total(seen) / seen.length);
    },
    BatchNorm2d(x, p, tensors) { return normalised(x, p, tensors, x.shape[0], x.shape[1] * x.shape[2]); },
    BatchNorm1d(x, p, tensors) { return normalised(x, p, tensors, x.shape[0], 1); },
    GroupNorm(x, p, tensors) { return normalised(x, p, tensors, p.num_groups, x.values.length / x.shape[0]); },
    LayerNorm(x, p, tensors) { return normalised(x, p, tensors, 1, 1); },
    ReLU(x) { return map(x, (v) => Math.max(v, 0)); },
    LeakyReLU(x, p) { return map(x, (v) => v < 0 ? p.negative_slope * v : v); },
    Tanh(x) { return map(x, Math.tanh); },
    Sigmoid(x) { return map(x, sigmoid); },
    GELU(x, p) {
        const tanh = (v) => Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3));
        const share = p.approximate === "tanh" ? tanh : (v) => erf(v / Math.SQRT2);
        return map(x, (v) => v * (1 + share(v)) / 2);
    },
    SiLU(x) { return map(x, (v) => v * sigmoid(v)); },
    ELU(x, p) { return map(x, (v) => v > 0 ? v : p.alpha * Math.expm1(v)); },
    Softplus(x, p) { return map(x, (v) => p.beta * v > p.threshold ? v : Math.log1p(Math.exp(p.beta * v)) / p.beta); },
    Softmax(x) { return map(logSoftmax(x), Math.exp); },
    LogSoftmax(x) { return logSoftmax(x); },
    Dropout(x) { return x; },
    Dropout2d(x) { return x; },
    Identity(x) { return x; },
    Flatten(x) { return {shape: [x.values.length], values: x.values}; },
    Reshape(x, p) {
        const sizes = [p.shape].flat(), known = product(sizes.filter((size) => size !== -1));
        return {shape: sizes.map((size) => size === -1 ? x.values.length / known : size), values: x.values};
    },
    ZeroPad2d(x, p) {
        const [left, right, top, bottom] = p.padding;
        return padded(x, [top, bottom, left, right]);
    },
    Upsample(x, p) {                                        // the factors are float32 numbers, as in PyTorch
        const [channels, ...before] = x.shape, middle = p.mode === "nearest-exact" ? 0.5 : 0;
        const factors = p.size ? [] : pair(p.scale_factor), size = p.size && pair(p.size);
        const after = before.map((n, axis) => size ? size[axis] : Math.floor(n * factors[axis]));
        const places = before.map((n, axis) => Array.from({length: after[axis]}, (_, k) => Math.min(n - 1,
            Math.floor((k + middle) * Math.fround(size ? n / after[axis] : 1 / factors[axis])))));
        const y = zeros([channels, ...after]);
        let to = 0;
        for (let c = 0; c < channels; c++)
            for (const i of places[0])
                for (const j of places[1]) y.values[to++] = x.values[(c * before[0] + i) * before[1] + j];
        return y;
    },
    Concat(x, p, tensors, branch) {
        const parts = ["first", "second", "third", "fourth"].filter((name) => p[name]).map(branch);
        const y = zeros([total(parts.map((part) => part.shape[0])), ...parts[0].shape.slice(1)]);
        let end = 0;
        for (const {values} of parts) {
            y.values.set(values, end);
            end += values.length;
        }
        return y;
    },
    Residual(x, p, tensors, branch) {
        const body = branch("body"), beside = p.shortcut ? branch("shortcut") : x;
        return map(body, (v, k) => v + beside.values[k]);
    },
};

// What each layer gives, in the order in which they are written: a container comes before the layers inside it.
//
// layers: [{type, params}]; tensors: {name: value}, the names of state_dict; x: the image, normalised
function run(layers, tensors, x, prefix = "", seen = []) {
    layers.forEach(({type, params}, k) => {
        if (!Object.hasOwn(LAYERS, type)) throw new Error(`layer ${prefix}${k}: ${type} is missing in this page`);
        const name = `${prefix}${k}.`, mine = {}, place = seen.push(null) - 1, input = x;
        for (const key of Object.keys(tensors))
            if (key.startsWith(name)) mine[key.slice(name.length)] = tensors[key];
        const branch = (which) => run(params[which], tensors, input, `${name}${which}.`, seen).y;
        x = seen[place] = LAYERS[type](x, params, mine, branch);
    });
    return {y: x, seen};
}
