// The action timeline: a film, what a classifier says of it at every moment, and, on demand, arrows for what moves. All data is here from the start:
// the film as a sprite sheet, probabilities as numbers at moments that need not be those of the frames, flow as bytes on a coarse grid.

async function render({ model, el }) {
  const [film] = model.get('rows'), times = model.get('times'), numbers = model.get('numbers'), moments = model.get('moments');
  const curves = model.get('curves'), truth = model.get('truth'), flow = model.get('flow') ?? {}, count = film.count;
  const sheet = await load(film.sheet);
  const field = flow.data ? Int8Array.from(atob(flow.data), c => c.charCodeAt(0)) : null;
  const start = Math.min(times[0], moments[0]), end = Math.max(times[count - 1], moments[moments.length - 1], start + .001), span = end - start;

  const mix = (curve, t) => { // between two moments, as the line goes
    const j = moments.findIndex(m => m >= t), v = curve.values;
    if (j < 1) return v[j < 0 ? v.length - 1 : 0];
    return v[j - 1] + (v[j] - v[j - 1]) * (t - moments[j - 1]) / (moments[j] - moments[j - 1]);
  };
  const percent = v => v > 0 && v < .005 ? '<1 %' : `${Math.round(100 * v)} %`;
  const called = curve => curve.name + (curve.name === truth ? ' ✓' : '');
  const ranked = t => curves.map(curve => [mix(curve, t), curve]).filter(([, c]) => !c.rest).sort((a, b) => b[0] - a[0]);

  // The film, what may be drawn over it, and a bar for each class
  const canvas = make('canvas', 'lvr-frame', { width: film.width, height: film.height, role: 'img' });
  const arrows = make('canvas', 'lvr-arrows', { 'aria-hidden': 'true' });
  const screen = make('div', 'lvr-screen', { style: `max-width:${24 * film.width / film.height}rem` }, canvas, arrows);
  const bars = curves.map((curve, k) => {
    const fill = make('i', 'lvr-fill'), number = make('span', 'lvr-number'), name = make('span', 'lvr-class', { title: curve.name }, curve.name);
    const mark = curve.name === truth ? [make('span', 'lvr-true', { role: 'img', title: 'the true class', 'aria-label': 'the true class' }, '✓')] : [];
    const color = curve.rest ? 'var(--lvr-soft)' : `var(--lvr-k${k % 8})`;
    return { fill, number, node: make('div', 'lvr-row', { role: 'listitem', style: `--lvr-key:${color}` }, make('span', 'lvr-what', {}, name, ...mark), number, make('span', 'lvr-rail', {}, fill)) };
  });

  const strip = make('canvas', 'lvr-film'), chart = make('canvas', 'lvr-plot');
  const track = make('div', 'lvr-track', { 'aria-hidden': 'true' }, strip, chart);
  const player = makePlayer(model, count, 'Frame'), { play, slider, speed, index, stop } = player;
  const toggle = make('button', 'lvr-button lvr-toggle', { type: 'button', 'aria-pressed': 'false', title: 'Arrows for what moves (F)' }, 'Flow');
  const status = make('div', 'lvr-status');

  const title = model.get('title');
  const root = make('div', 'lvr lvr-plain lvr-timeline', { role: 'group', 'aria-label': title || 'Action timeline', 'data-lm-suppress-shortcuts': 'true' },
    ...(title ? [make('div', 'lvr-title', {}, title)] : []),
    make('div', 'lvr-show', {}, screen, make('div', 'lvr-bars', { role: 'list', 'aria-label': 'Probabilities at this frame' }, ...bars.map(b => b.node))),
    track, make('div', 'lvr-controls', {}, play, slider, speed, ...(field ? [toggle] : [])), status);
  el.replaceChildren(root);

  const left = 44, room = 16, foot = 18, back = make('canvas'); // pixels for the numbers beside the lines, for names above them, for seconds below
  const colorOf = k => getComputedStyle(bars[k].fill).backgroundColor;

  // As many small frames as fit, each at its place in time
  const drawStrip = () => {
    const width = track.clientWidth - left;
    if (width <= 0) return;
    const cells = Math.max(1, Math.min(count, Math.round(width / Math.min(62, 46 * film.width / film.height + 5)))), w = width / cells, h = Math.min(46, (w - 1) * film.height / film.width), wide = h * film.width / film.height;
    const context = fit(strip, track.clientWidth, h);
    context.imageSmoothingQuality = 'high';
    for (let c = 0; c < cells; c++) paintFrame(context, film, sheet, film.first + nearest((c + .5) / cells), left + (c + .5) * w - wide / 2, 0, wide, h);
  };

  // Names stand where their lines are furthest above all others, if there is room
  const placeNames = (context, x, y, width) => {
    const taken = [];
    curves.forEach((curve, k) => {
      if (curve.rest) return;
      const half = context.measureText(called(curve)).width / 2 + 4;
      const lead = j => curve.values[j] - Math.max(0, ...curves.filter((c, i) => i !== k && !c.rest).map(c => c.values[j]));
      const spots = moments.map((m, j) => [lead(j), Math.max(left + half, Math.min(width - half, x(m))), y(curve.values[j]) - 6]).filter(([d]) => d > 0).sort((a, b) => b[0] - a[0]);
      const spot = spots.find(([, px, py]) => taken.every(([qx, qy, qh]) => Math.abs(px - qx) > half + qh || Math.abs(py - qy) > 13));
      if (!spot) return;
      taken.push([spot[1], spot[2], half]);
      context.strokeText(called(curve), spot[1], spot[2]);
      context.fillStyle = colorOf(k);
      context.fillText(called(curve), spot[1], spot[2]);
    });
  };

  // The lines are drawn once; a cursor goes over them
  const plan = () => {
    const width = track.clientWidth, high = width > 480 ? 170 : 130;
    return { width, high, x: s => left + (s - start) / span * (width - left - 2), y: v => room + (1 - v) * (high - room - 2) };
  };
  const drawChart = () => {
    const { width, high, x, y } = plan(), soft = getComputedStyle(status).color;
    if (width <= left) return;
    const context = fit(back, width, high + foot);
    context.font = '11px system-ui, sans-serif';
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    context.fillStyle = soft;
    for (const v of [0, .5, 1]) {
      context.fillText(`${100 * v} %`, left - 6, Math.min(high - 5, y(v)));
      context.globalAlpha = v ? .18 : .5;
      context.fillRect(left, y(v) - .5, width - left, 1);
      context.globalAlpha = 1;
    }
    const step = [.1, .2, .5, 1, 2, 5, 10, 30, 60, 300, 600].find(s => s / span * (width - left) > 56) ?? span;
    context.textAlign = 'center';
    for (let s = Math.ceil(start / step); s * step <= end; s++) if (x(s * step) < width - 10) context.fillText(`${+(s * step).toFixed(1)} s`, Math.max(left + 8, x(s * step)), high + 10);
    context.lineJoin = 'round';
    [...curves.keys()].reverse().forEach(k => {
      context.strokeStyle = context.fillStyle = colorOf(k);
      context.lineWidth = curves[k].name === truth ? 3 : 2;
      context.setLineDash(curves[k].rest ? [3, 3] : []);
      context.beginPath();
      moments.forEach((m, j) => context.lineTo(x(m), y(curves[k].values[j])));
      context.stroke();
      context.lineTo(x(moments[moments.length - 1]), y(0));
      context.lineTo(x(moments[0]), y(0));
      context.globalAlpha = curves[k].rest ? 0 : .1;
      context.fill();
      context.globalAlpha = 1;
    });
    context.setLineDash([]);
    context.font = '600 12px system-ui, sans-serif';
    context.strokeStyle = getComputedStyle(speed).backgroundColor;
    context.lineWidth = 3;
    context.textBaseline = 'alphabetic';
    placeNames(context, x, y, width);
    drawCursor();
  };
  const drawCursor = () => {
    const { width, high, x, y } = plan(), t = times[index()];
    if (width <= left) return;
    const context = fit(chart, width, high + foot);
    context.drawImage(back, 0, 0, width, high + foot);
    context.fillStyle = getComputedStyle(root).color;
    context.fillRect(x(t) - .75, 2, 1.5, high - 2);
    curves.forEach((curve, k) => {
      context.fillStyle = colorOf(k);
      context.beginPath();
      context.arc(x(t), y(mix(curve, t)), 3.5, 0, 7);
      context.fill();
    });
  };

  // Arrows, yellow on black so that they are seen on any film; the longest go a little over one cell
  const drawArrows = () => {
    const width = canvas.clientWidth, height = canvas.clientHeight, k = index();
    if (!field || !width) return;
    const context = fit(arrows, width, height), size = flow.wide * flow.high * 2, cell = Math.min(width / flow.wide, height / flow.high);
    if (toggle.getAttribute('aria-pressed') === 'false' || (k + 1) * size > field.length) return;
    context.lineCap = context.lineJoin = 'round';
    const paths = [];
    for (let c = 0; c < size / 2; c++) {
      const u = field[k * size + 2 * c] / 127, v = field[k * size + 2 * c + 1] / 127, length = Math.hypot(u, v);
      if (length < .08) continue;
      const x = (c % flow.wide + .5) * width / flow.wide, y = (Math.floor(c / flow.wide) + .5) * height / flow.high;
      const dx = u * 1.3 * cell, dy = v * 1.3 * cell, tip = Math.min(5, length * cell * .45), [a, b] = [dx / length / 1.3 / cell * tip, dy / length / 1.3 / cell * tip];
      const path = new Path2D();
      path.moveTo(x - dx / 2, y - dy / 2);
      path.lineTo(x + dx / 2, y + dy / 2);
      path.moveTo(x + dx / 2 - a - b * .7, y + dy / 2 - b + a * .7);
      path.lineTo(x + dx / 2, y + dy / 2);
      path.lineTo(x + dx / 2 - a + b * .7, y + dy / 2 - b - a * .7);
      paths.push(path);
    }
    for (const [color, line] of [['rgba(0, 0, 0, .65)', 3.5], ['#ffe45c', 1.6]]) {
      context.strokeStyle = color;
      context.lineWidth = line;
      for (const path of paths) context.stroke(path);
    }
  };

  const nearest = part => { // the frame whose time is closest to that part of the way
    const t = start + part * span, k = times.findIndex(s => s >= t);
    return k < 0 ? count - 1 : k > 0 && t - times[k - 1] < times[k] - t ? k - 1 : k;
  };
  const show = () => {
    const k = index(), t = times[k], best = ranked(t), context = canvas.getContext('2d');
    context.clearRect(0, 0, canvas.width, canvas.height);
    paintFrame(context, film, sheet, film.first + k, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute('aria-label', `film, frame ${numbers[k]}, ${t.toFixed(2)} seconds`);
    bars.forEach(({ fill, number, node }, i) => {
      const v = mix(curves[i], t);
      fill.style.width = `${100 * v}%`;
      number.textContent = percent(v);
      node.classList.toggle('lvr-first', curves[i] === best[0][1]);
    });
    slider.value = k;
    slider.setAttribute('aria-valuetext', `frame ${numbers[k]}, ${t.toFixed(2)} seconds; ` + best.slice(0, 3).map(([v, c]) => `${c.name} ${percent(v)}`).join(', '));
    status.replaceChildren(make('b', '', {}, `${t.toFixed(2)} s`), ` of ${end.toFixed(2)} s, frame ${numbers[k]}`, ...(truth ? ['; ✓ true class'] : []));
    drawArrows();
    drawCursor();
  };
  const flip = () => {
    toggle.setAttribute('aria-pressed', String(toggle.getAttribute('aria-pressed') === 'false'));
    drawArrows();
  };
  const redraw = () => { drawStrip(); drawChart(); show(); };

  toggle.addEventListener('click', flip);
  makeScrubbing(track, player, count, left, nearest);
  listenKeys(root, player, count, field ? { f: flip, F: flip } : {});
  model.on('change:index', show);
  const unfollow = followTheme(drawChart), resize = new ResizeObserver(redraw);
  resize.observe(track);
  resize.observe(screen);
  redraw();
  return () => { stop(); resize.disconnect(); unfollow(); model.off('change:index', show); };
}

export default { render };
