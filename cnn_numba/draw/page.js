// The page: what is drawn becomes the image that the network sees, and what the network answers is shown.
"use strict";

const NETWORK = JSON.parse(document.getElementById("network").textContent);
const [CHANNELS, ROWS, COLUMNS] = NETWORK.shape;
const FACTOR = Math.max(1, Math.round(280 / Math.max(ROWS, COLUMNS)));     // pixels of the canvas for one of the input
const BOX = 20, INK = 0.2;                      // of the digits of MNIST; as in cnn_numba/data/drawing.py
const MOST_BARS = 20, MOST_FEATURES = 1024;     // of what is shown
const GAP = 2;                                  // pixels between the channels of a layer
const LARGEST_FILE = 64 << 20;
const $ = (id) => document.getElementById(id);

const luminance = (red, green, blue) => (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;    // as in Pillow

// ---- images: {rows, columns, values}, one channel from 0 to 255 ----------------------------------------------------
// The channels of the canvas: its colours, or its luminance.
function channelsOf(canvas, count) {
    const {data, width, height} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return Array.from({length: count}, (_, c) => {
        const values = new Float32Array(width * height);
        for (let k = 0; k < values.length; k++)
            values[k] = count === 3 ? data[4 * k + c] : luminance(data[4 * k], data[4 * k + 1], data[4 * k + 2]);
        return {rows: height, columns: width, values};
    });
}

// The means of squares of pixels: an image that was enlarged by a whole number becomes what it was.
function reduced({rows, columns, values}, factor) {
    const sums = new Float64Array(values.length / factor ** 2);
    const small = {rows: rows / factor, columns: columns / factor, values: new Float32Array(sums.length)};
    for (let i = 0; i < rows; i++)
        for (let j = 0; j < columns; j++)
            sums[Math.floor(i / factor) * small.columns + Math.floor(j / factor)] += values[i * columns + j];
    sums.forEach((sum, k) => { small.values[k] = Math.round(sum / factor ** 2); });
    return small;
}

// The columns of an image in another number, by bicubic interpolation as Pillow has it.
function resampled({rows, columns, values}, count) {
    const scale = columns / count, stretch = Math.max(scale, 1), support = 2 * stretch;
    const bicubic = (v) => v < 1 ? (1.5 * v - 2.5) * v * v + 1 : v < 2 ? ((-0.5 * v + 2.5) * v - 4) * v + 2 : 0;
    const result = {rows, columns: count, values: new Float32Array(rows * count)};
    for (let j = 0; j < count; j++) {
        const centre = (j + 0.5) * scale;
        const first = Math.max(0, Math.trunc(centre - support + 0.5));
        const end = Math.min(columns, Math.trunc(centre + support + 0.5));
        const weights = [];
        for (let k = first; k < end; k++) weights.push(bicubic(Math.abs((k - centre + 0.5) / stretch)));
        const total = weights.reduce((a, b) => a + b, 0);
        for (let i = 0; i < rows; i++) {
            let sum = 0;
            weights.forEach((weight, k) => { sum += weight / total * values[i * columns + first + k]; });
            result.values[i * count + j] = sum;
        }
    }
    return result;
}

function transposed({rows, columns, values}) {
    const turned = values.map((_, k) => values[(k % rows) * columns + Math.floor(k / rows)]);
    return {rows: columns, columns: rows, values: turned};
}

function even(value) {          // rounds halves to even numbers, as Python does
    const low = Math.floor(value), rest = value - low;
    return rest < 0.5 || rest === 0.5 && low % 2 === 0 ? low : low + 1;
}

// A drawing as the images of MNIST were made; the same as like_mnist in cnn_numba/data/drawing.py.
function likeMnist({rows, columns, values}) {
    const result = {rows: ROWS, columns: COLUMNS, values: new Float32Array(ROWS * COLUMNS)};
    const border = [];
    for (let j = 0; j < columns; j++) border.push(values[j], values[(rows - 1) * columns + j]);
    for (let i = 0; i < rows; i++) border.push(values[i * columns], values[(i + 1) * columns - 1]);
    border.sort((a, b) => a - b);
    const ground = (border[border.length / 2 - 1] + border[border.length / 2]) / 2;
    const contrast = values.map((v) => Math.abs(v - ground)), most = contrast.reduce((a, b) => Math.max(a, b), 0);
    if (most === 0) return result;
    const ink = contrast.map((v) => v * Math.fround(255 / most));
    let [top, bottom, left, right] = [rows, 0, columns, 0];
    ink.forEach((v, k) => {
        if (v <= INK * 255) return;
        const i = Math.floor(k / columns), j = k % columns;
        [top, bottom] = [Math.min(top, i), Math.max(bottom, i + 1)];
        [left, right] = [Math.min(left, j), Math.max(right, j + 1)];
    });
    let box = {rows: bottom - top, columns: right - left, values: new Float32Array((bottom - top) * (right - left))};
    for (let i = top; i < bottom; i++)
        box.values.set(ink.subarray(i * columns + left, i * columns + right), (i - top) * box.columns);
    const scale = BOX / Math.max(box.rows, box.columns);
    const [height, width] = [box.rows, box.columns].map((side) => Math.max(1, even(side * scale)));
    if (height !== box.rows || width !== box.columns) {
        box = transposed(resampled(transposed(resampled(box, width)), height));
        box.values = box.values.map((v) => Math.min(255, Math.max(0, v)));
    }
    let [mass, across, along] = [0, 0, 0];
    box.values.forEach((v, k) => { mass += v; across += v * Math.floor(k / width); along += v * (k % width); });
    const start = (middle, side, size) => Math.min(size - side, Math.max(0, even(size / 2 - middle)));
    const [row, column] = [start(across / mass, height, ROWS), start(along / mass, width, COLUMNS)];
    for (let i = 0; i < height; i++)
        for (let j = 0; j < width; j++)
            result.values[(row + i) * COLUMNS + column + j] = even(box.values[i * width + j]);
    return result;
}

// The image turned clockwise by an angle, scaled about its centre, and shifted; as --augment changes images.
function moved({rows, columns, values}, {angle, size, down, right}, outside) {
    if (!angle && size === 1 && !down && !right) return {rows, columns, values};
    const cos = Math.cos(-angle) / size, sin = Math.sin(-angle) / size;
    const [middleRow, middleColumn] = [(rows - 1) / 2, (columns - 1) / 2];
    const at = (i, j) => i < 0 || j < 0 || i >= rows || j >= columns ? outside : values[i * columns + j];
    return {rows, columns, values: values.map((_, k) => {
        const i = Math.floor(k / columns) - middleRow - down, j = k % columns - middleColumn - right;
        const row = middleRow + cos * i + sin * j, column = middleColumn - sin * i + cos * j;
        const [p, q] = [Math.floor(row), Math.floor(column)], [below, beside] = [row - p, column - q];
        const above = at(p, q) + beside * (at(p, q + 1) - at(p, q));
        return above + below * (at(p + 1, q) + beside * (at(p + 1, q + 1) - at(p + 1, q)) - above);
    })};
}

// ---- what is drawn -------------------------------------------------------------------------------------------------
const canvas = $("canvas"), pens = canvas.getContext("2d", {willReadFrequently: true});
let ground = "";                // the colour of the canvas where nothing is drawn

function fill(colour) {
    ground = colour;
    pens.fillStyle = colour;
    pens.fillRect(0, 0, canvas.width, canvas.height);
}

function clear() {
    fill($("paper").value);
    update();
}

function invert() {
    const inverse = hexOf(coloursOf(ground).map((v) => 255 - v));
    pens.globalCompositeOperation = "difference";
    fill("#ffffff");
    pens.globalCompositeOperation = "source-over";
    ground = inverse;
    update();
}

let last = null;                // where the stroke is now

function stroke(event) {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    const between = event.getCoalescedEvents?.() ?? [];        // where the pointer was since the last event
    for (const {clientX, clientY, pressure, pointerType} of between.length ? between : [event]) {
        const here = [(clientX - box.left) * scale, (clientY - box.top) * scale], from = last ?? here;
        pens.lineWidth = $("width").value / 100 * canvas.width * (pointerType === "pen" ? 0.5 + pressure : 1);
        pens.strokeStyle = $("pen").value;
        pens.lineCap = pens.lineJoin = "round";
        pens.beginPath();
        pens.moveTo(...from);
        pens.lineTo(...here);
        pens.stroke();
        last = here;
    }
    update();
}

// Puts an image file on the canvas, as large as it fits; small images are enlarged by whole numbers, without blur.
async function openImage(file) {
    if (!file) return;
    if (file.size > LARGEST_FILE) return say(`${file.name} has more than ${LARGEST_FILE >> 20} MB`);
    let picture;
    try {
        picture = await createImageBitmap(file);
    } catch {
        return say(`${file.name || "What came"} is not an image that this browser can read`);
    }
    const {width, height} = picture, fit = Math.min(canvas.width / width, canvas.height / height);
    const scale = fit > 1 ? Math.floor(fit) : fit;
    const size = [width * scale, height * scale].map(Math.round);
    const corner = [canvas.width - size[0], canvas.height - size[1]].map((room) => Math.floor(room / 2));
    const put = (colour) => {
        fill(colour);
        pens.drawImage(picture, ...corner, ...size);
        const {values} = channelsOf(canvas, 1)[0];
        return values.reduce((a, b) => Math.max(a, b)) - values.reduce((a, b) => Math.min(a, b));
    };
    pens.imageSmoothingEnabled = fit < 1;
    pens.imageSmoothingQuality = "high";
    pens.clearRect(0, 0, canvas.width, canvas.height);
    pens.drawImage(picture, ...corner, ...size);
    const [red, green, blue, alpha] = pens.getImageData(...corner, 1, 1).data;
    if (alpha === 255) put(hexOf([red, green, blue]));         // its ground goes on around it
    else if (4 * put("#ffffff") < put("#000000")) put("#000000");
    else put("#ffffff");
    update();
}

const coloursOf = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const hexOf = (numbers) => `#${numbers.map((v) => v.toString(16).padStart(2, "0")).join("")}`;

// ---- what the network sees -----------------------------------------------------------------------------------------
// The channels of the network's input, from 0 to 255.
function input() {
    const prepare = NETWORK.preparable && $("prepare").checked, colours = coloursOf(prepare ? "#000000" : ground);
    const outside = CHANNELS === 1 ? [luminance(...colours)] : colours;
    const number = (id) => Number($(id).value);
    const move = {angle: number("angle") * Math.PI / 180, size: number("size") / 100, down: number("down"),
                  right: number("right")};
    return channelsOf(canvas, CHANNELS).map((channel, c) =>
        moved(prepare ? likeMnist(channel) : reduced(channel, FACTOR), move, outside[c]));
}

// The same in the range of pixels of the training, one channel after the other.
function pixelsOf(channels) {
    return Float32Array.from(channels.flatMap(({values}) => Array.from(values, (v) => v * NETWORK.white / 255)));
}

const isFlat = (channels) => channels.every(({values}) => values.every((v) => Math.abs(v - values[0]) < 2));

// ---- what the network answers: for each layer, the numbers of the channels that are shown, and of all features ----
// By the server, which runs the compiled kernels.
async function ask(pixels) {
    const response = await fetch("run", {method: "POST", body: pixels}).catch(() => {
        throw new Error("The program no longer answers: start it again.");
    });
    if (!response.ok) throw new Error(await response.text());
    const numbers = new Float32Array(await response.arrayBuffer());
    let end = 0;
    return NETWORK.layers.map(({shape: [, ...sizes], shown}) => {
        const begin = end;
        end += shown * sizes.reduce((a, b) => a * b, 1);
        return numbers.subarray(begin, end);
    });
}

// By the script in this page.
async function compute(pixels) {
    const size = ROWS * COLUMNS, channel = (k) => Math.floor(k / size);
    const values = pixels.map((v, k) => Math.fround(v - NETWORK.mean[channel(k)]) * NETWORK.scale[channel(k)]);
    return run(NETWORK.network, TENSORS, {shape: NETWORK.shape, values}).seen.map((y) => y.values);
}

function unpacked({tensors, numbers}) {
    const bytes = Uint8Array.from(atob(numbers), (character) => character.charCodeAt(0));
    const all = new Float32Array(bytes.buffer), found = {};
    let end = 0;
    for (const [name, shape] of tensors) {
        const begin = end;
        end += shape.reduce((a, b) => a * b, 1);
        found[name] = {shape, values: all.subarray(begin, end)};
    }
    return found;
}

const TENSORS = NETWORK.weights && unpacked(NETWORK.weights), answerTo = TENSORS ? compute : ask;

function probabilitiesOf(logits) {
    const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const powers = Array.from(logits, (v) => Math.exp(v - most));
    const total = powers.reduce((a, b) => a + b, 0);
    return powers.map((v) => v / total);
}

// ---- the answer on the page ----------------------------------------------------------------------------------------
let state = "idle";             // or "busy", or "again": something changed meanwhile

async function update() {
    if (state !== "idle") {
        state = "again";
        return;
    }
    do {
        state = "busy";
        await new Promise(requestAnimationFrame);
        await answer();
    } while (state === "again");
    state = "idle";
}

async function answer() {
    const channels = input(), empty = isFlat(channels);
    showInput(channels);
    if (empty) return showNothing();
    const began = performance.now();
    try {
        const outputs = await answerTo(pixelsOf(channels));
        const probabilities = probabilitiesOf(outputs[NETWORK.logits]);
        if (probabilities.some(Number.isNaN)) throw new Error("the network gives NaN or infinity instead of numbers");
        say(`answered in ${Math.max(1, Math.round(performance.now() - began))} ms`);
        showProbabilities(probabilities);
        NETWORK.layers.forEach((layer, k) => showLayer(layer, outputs[k]));
    } catch (error) {
        showNothing();
        say(error.message);
    }
}

function say(sentence) {
    $("message").textContent = sentence;
}

function showInput(channels) {
    const pixels = new ImageData(COLUMNS, ROWS);
    for (let k = 0; k < ROWS * COLUMNS; k++) {
        const [red, green, blue] = CHANNELS === 3 ? channels : [channels[0], channels[0], channels[0]];
        pixels.data.set([red.values[k], green.values[k], blue.values[k], 255], 4 * k);
    }
    $("input").getContext("2d").putImageData(pixels, 0, 0);
}

function showNothing() {
    say("");
    $("answer").textContent = "";
    for (const [, bar, number] of BARS) {
        bar.style.width = "0";
        number.textContent = "–";
    }
    for (const name of BARS.map(([name]) => name)) name.classList.remove("likely");
    NETWORK.layers.forEach((layer) => showLayer(layer, null));
}

function showProbabilities(probabilities) {
    const order = probabilities.map((_, k) => k).sort((a, b) => probabilities[b] - probabilities[a]);
    $("answer").textContent = NETWORK.classes[order[0]];
    const shown = BARS.length < probabilities.length ? order : probabilities.map((_, k) => k);
    BARS.forEach(([name, bar, number], k) => {
        const probability = probabilities[shown[k]];
        name.textContent = name.title = NETWORK.classes[shown[k]];
        name.classList.toggle("likely", shown[k] === order[0]);
        bar.style.width = `${100 * probability}%`;
        number.textContent = `${(100 * probability).toFixed(1)} %`;
    });
}

// ---- feature maps --------------------------------------------------------------------------------------------------
// Red, green and blue of a number from -1 to 1: blue, black, orange.
function shade(number) {
    const size = Math.abs(number);
    const [bright, middle, dim] = [255 * Math.min(1, 1.6 * size), 230 * size ** 1.3, 190 * size ** 3];
    return number < 0 ? [dim, middle, bright] : [bright, middle, dim];
}

// Those of -127 to 127 in 127, each as one number of four bytes.
const SHADES = new Uint32Array(Uint8ClampedArray.from(
    Array.from({length: 255}, (_, k) => [...shade((k - 127) / 127), 255]).flat()).buffer);

// How the channels of a layer are laid out: tiles in rows, each of their pixels enlarged.
function layoutOf({shape: [, rows = 1, columns = 1], shown}) {
    const maps = rows * columns > 1, count = Math.min(shown, maps ? shown : MOST_FEATURES), gap = maps ? GAP : 0;
    const side = maps ? (count > 16 ? 42 : 64) : 0, features = count > 64 ? 8 : 20;
    const enlarge = maps ? Math.max(1, Math.min(10, Math.floor(side / Math.max(rows, columns)))) : features;
    const room = $("layers").clientWidth - 34, across = Math.floor((room + gap) / (columns * enlarge + gap));
    return {rows, columns, count, enlarge, gap, across: Math.max(1, Math.min(count, across))};
}

const scratch = document.createElement("canvas");

function showLayer(layer, values) {
    const {rows, columns, count, enlarge, gap, across} = layoutOf(layer), size = rows * columns;
    const pixels = new ImageData(columns, rows * count);        // one channel below the other
    const shades = new Uint32Array(pixels.data.buffer).fill(SHADES[127]);
    let most = 0;
    for (let k = 0; values && k < count * size; k++) most = Math.max(most, Math.abs(values[k]));
    for (let k = 0; most > 0 && k < count * size; k++) shades[k] = SHADES[Math.round(127 * values[k] / most) + 127];
    [scratch.width, scratch.height] = [columns, rows * count];
    scratch.getContext("2d").putImageData(pixels, 0, 0);
    const [wide, high] = [columns * enlarge, rows * enlarge], brush = layer.canvas.getContext("2d");
    layer.canvas.width = across * (wide + gap) - gap;
    layer.canvas.height = Math.ceil(count / across) * (high + gap) - gap;
    brush.imageSmoothingEnabled = false;
    for (let tile = 0; tile < count; tile++)
        brush.drawImage(scratch, 0, tile * rows, columns, rows,
                        tile % across * (wide + gap), Math.floor(tile / across) * (high + gap), wide, high);
    layer.range.textContent = most > 0 ? `, up to ${Number(most.toPrecision(3))}` : "";
}

function element(parent, tag, className = "", text = "") {
    const made = parent.appendChild(document.createElement(tag));
    [made.className, made.textContent] = [className, text];
    return made;
}

function makeLayer(layer) {
    const [channels, ...sizes] = layer.shape, box = element($("layers"), "div", "layer"), title = element(box, "h3");
    box.style.marginLeft = `${Math.floor(layer.name.split(".").length / 2)}rem`;
    title.append(`${layer.name} ${layer.text} `);
    const shown = Math.min(layer.shown, sizes.length && sizes[0] * sizes[1] > 1 ? layer.shown : MOST_FEATURES);
    const rest = shown < channels ? `, the first ${shown} are shown` : "";
    element(title, "span", "", `gives ${layer.shape.join(" × ")}${rest}`);
    layer.range = element(title, "span");
    layer.canvas = element(box, "canvas");
    layer.canvas.setAttribute("role", "img");
    layer.canvas.setAttribute("aria-label", `What layer ${layer.name} gives`);
}

// ---- beginning -----------------------------------------------------------------------------------------------------
const BARS = Array.from({length: Math.min(NETWORK.classes.length, MOST_BARS)}, (_, k) => {
    const name = element($("classes"), "span", "name", NETWORK.classes.length > MOST_BARS ? "" : NETWORK.classes[k]);
    return [name, element(element($("classes"), "span"), "div", "bar"), element($("classes"), "span", "number", "–")];
});

function begin() {
    document.title = `Draw for ${NETWORK.title}`;
    $("title").textContent = NETWORK.title;
    $("facts").textContent = NETWORK.facts;
    [canvas.width, canvas.height] = [COLUMNS * FACTOR, ROWS * FACTOR];
    [$("input").width, $("input").height] = [COLUMNS, ROWS];
    [$("pen").value, $("paper").value] = NETWORK.light ? ["#000000", "#ffffff"] : ["#ffffff", "#000000"];
    $("width").value = 8;
    for (const each of document.querySelectorAll(".colour")) each.classList.toggle("hidden", CHANNELS === 1);
    $("prepared").classList.toggle("hidden", !NETWORK.preparable);
    $("prepare").checked = NETWORK.prepare;
    for (const [id, size] of [["right", COLUMNS], ["down", ROWS]]) {
        $(id).max = Math.ceil(size / 2);
        $(id).min = -$(id).max;
    }
    NETWORK.layers.forEach(makeLayer);
    const legend = $("legend").getContext("2d");
    for (let k = 0; k < 101; k++) {
        legend.fillStyle = `rgb(${shade((k - 50) / 50).map(Math.round).join()})`;
        legend.fillRect(k, 0, 1, 1);
    }
    const units = {width: " %", angle: "°", right: " px", down: " px", size: " %"};
    const showSlider = (id) => { $(id).nextElementSibling.textContent = $(id).value + units[id]; };
    for (const id of Object.keys(units)) {
        showSlider(id);
        $(id).addEventListener("input", () => { showSlider(id); update(); });
    }
    $("reset").addEventListener("click", () => {
        for (const id of ["angle", "right", "down", "size"]) { $(id).value = id === "size" ? 100 : 0; showSlider(id); }
        update();
    });
    $("prepare").addEventListener("change", update);
    $("clear").addEventListener("click", clear);
    $("invert").addEventListener("click", invert);
    $("paper").addEventListener("input", clear);
    $("file").addEventListener("change", (event) => { openImage(event.target.files[0]); event.target.value = ""; });
    canvas.addEventListener("pointerdown", (event) => {
        if (!event.isPrimary || event.button) return;
        canvas.setPointerCapture(event.pointerId);
        last = null;
        stroke(event);
    });
    canvas.addEventListener("pointermove", (event) => { if (last && event.isPrimary) stroke(event); });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });
    canvas.addEventListener("keydown", ({key}) => { if (["Delete", "Backspace", "Escape"].includes(key)) clear(); });
    document.addEventListener("dragover", (event) => { event.preventDefault(); canvas.classList.add("over"); });
    document.addEventListener("dragleave", () => canvas.classList.remove("over"));
    document.addEventListener("drop", (event) => {
        event.preventDefault();
        canvas.classList.remove("over");
        openImage(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => openImage(event.clipboardData.files[0]));
    window.addEventListener("resize", update);
    clear();
}

begin();
