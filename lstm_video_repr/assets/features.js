// The feature browser: a mosaic of units, the weights of one of them, and its activity while a clip plays. All data is here from the start:
// weights as sprite sheets of grey (128 is zero), activity as bytes. `unit` and `index` are what it tells the kernel.

const LINES = [
  ['h', 'output', 0], ['c', 'cell', 0], ['g', 'candidate', 0], // of the upper plot
  ['i', 'input gate', 1], ['f', 'forget gate', 1], ['o', 'output gate', 1], // of the lower plot
];
const ORDER = 'hcifgo'; // of the bytes

// A sheet of weights in colours: blue below zero, red above, and for zero the colour of the paper. Sheets with colours of their own stay as they are.
const tint = (image, channels, dark) => {
  const canvas = make('canvas', '', { width: image.width, height: image.height }), context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  if (channels !== 1) return canvas;
  const data = context.getImageData(0, 0, image.width, image.height), pixels = data.data;
  const zero = dark ? [24, 26, 30] : [247, 247, 247];
  const ramp = (low, half, full) => v => v < .5 ? low.map((a, k) => a + (half[k] - a) * v * 2) : half.map((a, k) => a + (full[k] - a) * (v - .5) * 2);
  const up = dark ? ramp(zero, [190, 62, 58], [255, 190, 160]) : ramp(zero, [233, 129, 101], [120, 8, 34]);
  const down = dark ? ramp(zero, [48, 118, 184], [170, 214, 246]) : ramp(zero, [96, 165, 206], [8, 52, 106]);
  const table = Array.from({ length: 256 }, (_, g) => g >= 128 ? up((g - 128) / 127) : down((128 - g) / 127));
  for (let p = 0; p < pixels.length; p += 4) [pixels[p], pixels[p + 1], pixels[p + 2]] = table[pixels[p]];
  context.putImageData(data, 0, 0);
  return canvas;
};

async function render({ model, el }) {
  const units = model.get('units'), rows = model.get('rows'), numbers = model.get('numbers'), past = model.get('past');
  const features = model.get('features'), tile = model.get('tile'), tops = model.get('tops'), decoder = model.get('decoder');
  const count = numbers.length, size = { ...tile, first: 0, count: units.length };
  const bytes = Uint8Array.from(atob(model.get('activity')), c => c.charCodeAt(0));
  const frames = await Promise.all(rows.map(row => load(row.sheet)));
  const sheets = await Promise.all(features.map(f => load(f.sheet)));
  let tinted = [];

  const place = () => Math.max(0, units.indexOf(model.get('unit')));
  const value = (k, name, t) => {
    const byte = bytes[(k * ORDER.length + ORDER.indexOf(name)) * count + t];
    return 'ifo'.includes(name) ? byte / 255 : (byte - 128) / 127 * (name === 'c' ? tops[k] : 1);
  };
  const isPast = t => t < past;

  // The overview: one small picture for each unit
  const kind = make('select', 'lvr-speed', { 'aria-label': 'Weights in the overview' });
  features.forEach((f, k) => kind.append(make('option', '', { value: k }, f.name)));
  kind.value = String(features.length - 1);
  const mosaic = make('canvas', 'lvr-film'), box = make('div', 'lvr-chosen');
  const board = make('div', 'lvr-board', { 'aria-hidden': 'true' }, mosaic, box);

  // One unit
  const pick = make('input', 'lvr-slider', { type: 'range', min: 0, max: units.length - 1, step: 1, 'aria-label': 'Unit' });
  const name = make('div', 'lvr-unit');
  const tiles = features.map(f => {
    const canvas = make('canvas', 'lvr-weights', { width: tile.width, height: tile.height, role: 'img' });
    return { canvas, node: make('div', 'lvr-panel', {}, make('div', 'lvr-caption', {}, make('span', 'lvr-note', {}, f.name)), canvas) };
  });

  // What it does, and what is seen meanwhile
  const screens = rows.map(row => {
    const canvas = make('canvas', 'lvr-frame', { width: row.width, height: row.height, role: 'img' }), note = make('span', 'lvr-note'), gap = make('span');
    const screen = make('div', 'lvr-screen', {}, canvas, make('div', 'lvr-gap', { 'aria-hidden': 'true' }, gap));
    return { row, note, gap, canvas, node: make('div', 'lvr-panel', {}, make('div', 'lvr-caption', {}, make('span', 'lvr-name', {}, row.name), note), screen) };
  });
  const plots = [0, 1].map(p => {
    const readings = LINES.filter(line => line[2] === p).map(([letter, words]) => ({ letter, node: make('b') , words }));
    const legend = make('div', 'lvr-legend', {}, ...readings.map(r => make('span', `lvr-key lvr-${r.letter}`, {}, make('i'), `${r.words} `, r.node)));
    const canvas = make('canvas', 'lvr-plot');
    return { p, readings, canvas, node: make('div', '', {}, legend, canvas) };
  });
  const track = make('div', 'lvr-track', { 'aria-hidden': 'true' }, ...plots.map(p => p.node));
  const player = makePlayer(model, count, 'Frame'), { play, slider, speed, index, go, stop, toggle } = player;
  const status = make('div', 'lvr-status');

  const title = model.get('title');
  const root = make('div', 'lvr lvr-features', { role: 'group', 'aria-label': title || `Feature browser: ${units.length} units`, 'data-lm-suppress-shortcuts': 'true' },
    ...(title ? [make('div', 'lvr-title', {}, title)] : []),
    make('div', 'lvr-head', {}, make('span', 'lvr-note', {}, `${units.length} units`), kind), board,
    make('div', 'lvr-controls', {}, name, pick),
    make('div', 'lvr-tiles', { style: `--lvr-count:${Math.max(5, features.length)}` }, ...tiles.map(t => t.node)),
    make('div', 'lvr-stage', {}, make('div', 'lvr-screens', {}, ...screens.map(s => s.node)), track),
    make('div', 'lvr-controls', {}, play, slider, speed), status);
  root.style.setProperty('--lvr-seen', `${100 * Math.max(0, past - .5) / Math.max(1, count - 1)}%`);
  el.replaceChildren(root);

  const choose = k => {
    k = Math.max(0, Math.min(units.length - 1, k));
    if (k === place()) return;
    model.set('unit', units[k]);
    model.save_changes();
  };

  // Colours follow the theme
  const luminance = color => { const [r, g, b] = (color.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number); return .3 * r + .6 * g + .1 * b; };
  let dark = null;
  const paintSheets = () => {
    const now = luminance(getComputedStyle(root).color) > 128;
    if (now === dark) return;
    dark = now;
    tinted = sheets.map(sheet => tint(sheet, tile.channels, dark));
  };

  const across = () => board.clientWidth < 480 ? 10 : 20;
  const drawMosaic = () => {
    const width = board.clientWidth;
    if (!width) return;
    const columns = across(), w = width / columns, h = w * tile.height / tile.width;
    const context = fit(mosaic, width, h * Math.ceil(units.length / columns));
    context.imageSmoothingQuality = 'high';
    units.forEach((_, k) => paintFrame(context, size, tinted[Number(kind.value)], k, k % columns * w + .5, Math.floor(k / columns) * h + .5, w - 1, h - 1));
    const k = place();
    Object.assign(box.style, { left: `${k % columns * w}px`, top: `${Math.floor(k / columns) * h}px`, width: `${w}px`, height: `${h}px` });
  };

  const left = 34; // pixels for the numbers beside a plot
  const drawPlots = () => {
    const width = track.clientWidth, k = place(), t = index();
    if (!width) return;
    const style = getComputedStyle(root), step = (width - left) / count, x = s => left + (s + .5) * step, color = n => style.getPropertyValue(`--lvr-${n}`);
    plots.forEach(({ p, canvas, readings }) => {
      const tall = width > 400 ? 1.3 : 1, high = (p ? 84 : 104) * tall, foot = p ? 16 : 4, context = fit(canvas, width, high + foot);
      const names = LINES.filter(line => line[2] === p).map(line => line[0]);
      const top = p ? 1 : Math.max(1, ...names.flatMap(n => numbers.map((_, s) => Math.abs(value(k, n, s))))), low = p ? 0 : -top;
      const y = v => 5 + (top - v) / (top - low) * (high - 10);
      context.globalAlpha = .1;
      context.fillStyle = color('past');
      context.fillRect(left, 0, past * step, high);
      context.fillStyle = color('future');
      context.fillRect(left + past * step, 0, (count - past) * step, high);
      context.globalAlpha = 1;
      context.fillStyle = color('now');
      context.fillRect(x(t) - .75, 0, 1.5, high);
      context.fillStyle = color('soft');
      context.font = '11px system-ui, sans-serif';
      context.textAlign = 'right';
      context.textBaseline = 'middle';
      (p ? [0, 1] : [low, 0, top]).forEach(v => context.fillText(p || !v ? v : v.toFixed(1).replace('-', '−'), left - 6, Math.max(6, Math.min(high - 6, y(v)))));
      if (!p) { context.globalAlpha = .4; context.fillRect(left, y(0) - .5, width - left, 1); context.globalAlpha = 1; }
      for (const n of names) {
        context.strokeStyle = context.fillStyle = n === 'h' ? style.color : color(n);
        context.lineWidth = 1.75;
        context.lineJoin = 'round';
        context.beginPath();
        numbers.forEach((_, s) => context.lineTo(x(s), y(value(k, n, s))));
        context.stroke();
        context.beginPath();
        context.arc(x(t), y(value(k, n, t)), 3.5, 0, 7);
        context.fill();
      }
      for (const r of readings) r.node.textContent = value(k, r.letter, t).toFixed(2).replace('-', '−');
      if (!p) return;
      context.textAlign = 'center';
      const every = Math.ceil(22 / step);
      numbers.forEach((number, s) => {
        if ((isPast(s) ? s : s - past) % every) return;
        context.fillStyle = color(isPast(s) ? 'past' : 'future');
        context.fillText(number, x(s), high + 9);
      });
    });
  };

  const show = () => {
    const k = place(), t = index(), unit = units[k], number = numbers[t], seen = isPast(t);
    root.dataset.when = seen ? 'past' : 'future';
    name.replaceChildren(make('b', '', {}, `Unit ${unit}`), ` ${k + 1} of ${units.length}`);
    pick.value = k;
    pick.setAttribute('aria-valuetext', `unit ${unit}, number ${k + 1} of ${units.length}`);
    tiles.forEach(({ canvas }, f) => {
      paintFrame(canvas.getContext('2d'), size, tinted[f], k, 0, 0, tile.width, tile.height);
      canvas.setAttribute('aria-label', `${features[f].name} of unit ${unit}`);
    });
    screens.forEach(({ row, note, gap, canvas }, r) => {
      const context = canvas.getContext('2d');
      context.clearRect(0, 0, canvas.width, canvas.height);
      const there = paintFrame(context, row, frames[r], t + 1, 0, 0, canvas.width, canvas.height), called = row.notes[seen ? 0 : 1] ?? '';
      note.textContent = there ? called : '';
      gap.textContent = there ? '' : seen ? 'watching' : 'unknown';
      canvas.classList.toggle('lvr-empty', !there);
      canvas.setAttribute('aria-label', there ? `${row.name}, frame ${number}` : `${row.name} shows nothing at frame ${number}`);
    });
    slider.value = t;
    const doing = seen ? 'the encoder watches' : decoder === 'future' ? 'the decoder predicts' : 'the decoder plays backwards';
    slider.setAttribute('aria-valuetext', `frame ${number}, ${doing}; ` + LINES.map(([n, words]) => `${words} ${value(k, n, t).toFixed(2)}`).join(', '));
    status.replaceChildren(make('b', '', {}, `Frame ${number}`), make('i', 'lvr-dot'), doing);
    drawPlots();
  };
  const showUnit = () => { show(); drawMosaic(); };
  const redraw = () => { paintSheets(); showUnit(); };

  pick.addEventListener('input', () => choose(Number(pick.value)));
  kind.addEventListener('change', drawMosaic);
  board.addEventListener('pointerdown', event => {
    const area = board.getBoundingClientRect(), columns = across(), w = area.width / columns, h = w * tile.height / tile.width;
    const k = Math.floor((event.clientX - area.left) / w) + columns * Math.floor((event.clientY - area.top) / h);
    if (k < units.length) choose(k);
    pick.focus({ preventScroll: true });
    event.preventDefault();
  });
  makeScrubbing(track, player, count, left);
  root.addEventListener('keydown', event => {
    if (event.target === speed || event.target === kind || event.altKey || event.ctrlKey || event.metaKey) return;
    const at = event.target === pick, k = place(), t = index(), columns = across();
    const unit = at ? { ArrowRight: k + 1, ArrowLeft: k - 1, ArrowDown: k + columns, ArrowUp: k - columns, PageDown: k + 10, PageUp: k - 10, Home: 0, End: units.length - 1 }[event.key]
      : { ArrowDown: k + 1, ArrowUp: k - 1 }[event.key];
    const time = at ? undefined : { ArrowRight: t + 1, ArrowLeft: t - 1, PageUp: t + 10, PageDown: t - 10, Home: 0, End: count - 1 }[event.key];
    if (unit !== undefined) { if (unit >= 0 && unit < units.length || event.key.startsWith('Page')) choose(unit); }
    else if (time !== undefined) { stop(); go(time); }
    else if (event.key === ' ' && event.target !== play) toggle();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  model.on('change:index', show);
  model.on('change:unit', showUnit);
  const unfollow = followTheme(redraw);
  const resize = new ResizeObserver(() => { drawMosaic(); drawPlots(); });
  resize.observe(board);
  resize.observe(track);
  redraw();
  return () => { stop(); resize.disconnect(); unfollow(); model.off('change:index', show); model.off('change:unit', showUnit); };
}

export default { render };
