// The network of the playground: an encoder that watches, a decoder that recalls and one that goes on, each a peephole LSTM of one layer, in plain JavaScript.
// All numbers are 32-bit. Gates stand in the order i, f, g, o, as everywhere in this package.

// Bytes of base64 text
const readBytes = text => {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let k = 0; k < letters.length; k++) bytes[k] = letters.charCodeAt(k);
  return bytes;
};

// The arrays of a model by name, out of one block of bytes. A matrix is kept in 8 bits, a scale for each row; it is expanded once, and turned: what one input does to all rows then lies side by side.
const readArrays = (bytes, layout) => {
  const arrays = {}, floats = (at, n) => new Float32Array(bytes.slice(at, at + 4 * n).buffer);
  for (const { name, shape, at, scales } of layout) {
    const [rows, columns] = shape;
    if (scales === undefined) { arrays[name] = floats(at, shape.reduce((a, b) => a * b)); continue; }
    const scale = floats(scales, rows), whole = new Int8Array(bytes.buffer, bytes.byteOffset + at, rows * columns), turned = new Float32Array(rows * columns);
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) turned[c * rows + r] = whole[r * columns + c] * scale[r];
    arrays[name] = turned;
  }
  return arrays;
};

// out += W x, for a turned matrix W. Inputs that are zero (black pixels, mostly) are skipped, the others taken eight at a time.
const used = new Int32Array(65536);
const addProduct = (out, W, x) => {
  const n = out.length;
  let count = 0, k = 0;
  for (let d = 0; d < x.length; d++) if (x[d] !== 0) used[count++] = d;
  for (; k + 8 <= count; k += 8) {
    const a = used[k], b = used[k + 1], c = used[k + 2], d = used[k + 3], e = used[k + 4], f = used[k + 5], g = used[k + 6], h = used[k + 7];
    const xa = x[a], xb = x[b], xc = x[c], xd = x[d], xe = x[e], xf = x[f], xg = x[g], xh = x[h];
    for (let j = 0, ja = a * n, jb = b * n, jc = c * n, jd = d * n, je = e * n, jf = f * n, jg = g * n, jh = h * n; j < n; j++)
      out[j] += xa * W[ja++] + xb * W[jb++] + xc * W[jc++] + xd * W[jd++] + xe * W[je++] + xf * W[jf++] + xg * W[jg++] + xh * W[jh++];
  }
  for (; k < count; k++) {
    const a = x[used[k]];
    for (let j = 0, ja = used[k] * n; j < n; j++) out[j] += a * W[ja++];
  }
};

const sigmoid = a => 1 / (1 + Math.exp(-a));
const GATES = ['i', 'f', 'g', 'o', 'h']; // what can be held: the gates, the candidate, and the output of a unit

// What is held in one part of the network, one row for each of GATES and one column for each unit, NaN where nothing is held; null if nothing is.
const readHolds = (holds, part, units) => {
  const chosen = holds.filter(hold => hold.part === 'all' || hold.part === part);
  if (!chosen.length) return null;
  const held = new Float32Array(5 * units).fill(NaN);
  for (const { gate, unit, value } of chosen) {
    const row = GATES.indexOf(gate) * units;
    if (unit === null) held.fill(value, row, row + units);
    else held[row + unit] = value;
  }
  return held;
};

// One step of a layer (paper, section 2.1): i and f see the old cell, o the new one. `x` is null for a decoder, which runs on its state.
const lstmStep = (layer, { h, c }, x, held) => {
  const { input, recurrent, bias, peephole } = layer, H = h.length, z = Float32Array.from(bias);
  addProduct(z, recurrent, h);
  if (x) addProduct(z, input, x);
  const next = { h: new Float32Array(H), c: new Float32Array(H) };
  const keep = (k, u, v) => { const value = held[k * H + u]; return value === value ? value : v; };
  for (let u = 0; u < H; u++) {
    let i = sigmoid(z[u] + (peephole ? peephole[u] * c[u] : 0));
    let f = sigmoid(z[H + u] + (peephole ? peephole[H + u] * c[u] : 0));
    let g = Math.tanh(z[2 * H + u]);
    if (held) [i, f, g] = [keep(0, u, i), keep(1, u, f), keep(2, u, g)];
    const cell = next.c[u] = f * c[u] + i * g;
    let o = sigmoid(z[3 * H + u] + (peephole ? peephole[2 * H + u] * cell : 0));
    if (held) o = keep(3, u, o);
    next.h[u] = held ? keep(4, u, o * Math.tanh(cell)) : o * Math.tanh(cell);
  }
  return next;
};

// The model: `watch` frames to get a state, then `start` a decoder from it and ask for its `next` frame, again and again. Frames come as logits.
const makeNetwork = (arrays, { peepholes = true, holds = [] } = {}) => {
  const units = arrays['encoder.bias_l0'].length / 4;
  const layer = place => ({ input: arrays[`${place}.weight_ih_l0`], recurrent: arrays[`${place}.weight_hh_l0`], bias: arrays[`${place}.bias_l0`], peephole: peepholes ? arrays[`${place}.weight_peephole_l0`] : undefined });
  const encoder = layer('encoder'), watching = readHolds(holds, 'encoder', units);
  const watch = frames => frames.reduce((state, frame) => lstmStep(encoder, state, frame, watching), { h: new Float32Array(units), c: new Float32Array(units) });
  const start = (part, state) => {
    const place = part === 'recall' ? 'reconstruction_decoder' : 'future_decoder', own = layer(`${place}.lstm`), held = readHolds(holds, part, units);
    const weight = arrays[`${place}.readout.weight`], bias = arrays[`${place}.readout.bias`];
    return () => {
      state = lstmStep(own, state, null, held);
      const logits = Float32Array.from(bias);
      addProduct(logits, weight, state.h);
      return logits;
    };
  };
  return { watch, start };
};

// What a frame is expected to be, from 0 to 255, and what the true one costs: cross-entropy in nats, summed over pixels.
const readFrame = (logits, truth) => {
  const grey = new Uint8ClampedArray(logits.length);
  let nats = 0;
  for (let d = 0; d < logits.length; d++) {
    const a = logits[d], e = Math.exp(-Math.abs(a));
    grey[d] = 255 * (a < 0 ? e : 1) / (1 + e);
    nats += Math.max(a, 0) - a * truth[d] + Math.log1p(e);
  }
  return { grey, nats };
};

// Random numbers that depend on nothing but a seed, a place and what they are for, as in `clips.uniform`
const mix = x => {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
};
const uniform = (seed, index, stream) => mix(mix(index) ^ mix((mix(seed) ^ 0x9e3779b9) + stream)) / 2 ** 32;

// The same network without anything learned: weights as they might be before training, forget biases 1. Only how dark a frame is on average, the bias of the outputs, stays.
const drawArrays = (arrays, layout, seed) => {
  const drawn = {};
  layout.forEach(({ name, shape }, k) => {
    const [rows, columns] = shape, units = rows / 4;
    if (name.endsWith('readout.bias')) drawn[name] = arrays[name];
    else if (name.endsWith('bias_l0')) drawn[name] = new Float32Array(rows).fill(1, units, 2 * units);
    else if (name.endsWith('peephole_l0')) drawn[name] = new Float32Array(rows * columns);
    else {
      const reach = Math.sqrt(name.endsWith('hh_l0') ? 3 / columns : 6 / (rows + columns));
      drawn[name] = Float32Array.from(arrays[name], (_, j) => (2 * uniform(seed, j, k) - 1) * reach);
    }
  });
  return drawn;
};

// Where something is in frames 1, 2, ..., that moves straight on and bounces off the walls at 0 and 1 (as `clips.bounce`, which leaves out the start)
const bounce = (p, v, frames) => {
  const path = [p];
  while (path.length < frames) {
    p += v;
    if (p <= 0 || p >= 1) v = -v;
    p = Math.min(Math.max(p, 0), 1);
    path.push(p);
  }
  return path;
};

// Frames of moving pictures on black; where they overlap, the brighter pixel wins. `things`: ink (bytes), row, column, down, right.
const paintClip = (things, side, size, frames) => {
  const clip = Array.from({ length: frames }, () => new Float32Array(size * size)), room = size - side;
  for (const { ink, row, column, down, right } of things) {
    const rows = bounce(row, down, frames), columns = bounce(column, right, frames);
    clip.forEach((frame, t) => {
      const y = Math.trunc(rows[t] * room), x = Math.trunc(columns[t] * room);
      for (let r = 0; r < side; r++) for (let c = 0; c < side; c++) {
        const at = (y + r) * size + x + c, v = ink[r * side + c] / 255;
        if (v > frame[at]) frame[at] = v;
      }
    });
  }
  return clip;
};

// A picture of `from` x `from` values averaged down to `to` x `to`, over the squares that torch's adaptive_avg_pool2d takes
const shrinkPicture = (picture, from, to) => {
  const small = new Float32Array(to * to), start = k => Math.floor(k * from / to), end = k => Math.ceil((k + 1) * from / to);
  for (let r = 0; r < to; r++) for (let c = 0; c < to; c++) {
    let sum = 0;
    for (let y = start(r); y < end(r); y++) for (let x = start(c); x < end(c); x++) sum += picture[y * from + x];
    small[r * to + c] = sum / ((end(r) - start(r)) * (end(c) - start(c)));
  }
  return small;
};
