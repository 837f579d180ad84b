// The cell lab: one LSTM unit whose weights are sliders, an input that a reader draws, and what its gates, its cell and its output make of it. Computed here; Python hears of weights and input, and may set them.

const NAMES = ['i', 'f', 'g', 'o'], KINDS = ['input', 'recurrent', 'bias', 'peephole'], MOST = 40;
const WORDS = { x: 'input x', i: 'input gate i', f: 'forget gate f', g: 'candidate g', o: 'output gate o', c: 'cell c', h: 'output h' };
const HEADS = { input: 'input x', recurrent: 'last output h', bias: 'bias', peephole: 'cell c' };
const PEEPS = { i: 0, f: 1, o: 2 }; // the candidate has no peephole

// The unit, step by step (paper, section 2.1): i and f see the old cell, o the new one
const runUnit = ({ input, recurrent, bias, peephole }, signal, peepholes) => {
  const s = a => 1 / (1 + Math.exp(-a)), curves = { x: signal, i: [], f: [], g: [], o: [], c: [], h: [] }, p = peepholes ? peephole : [0, 0, 0];
  let h = 0, c = 0;
  for (const x of signal) {
    const [zi, zf, zg, zo] = NAMES.map((_, k) => input[k] * x + recurrent[k] * h + bias[k]);
    const i = s(zi + p[0] * c), f = s(zf + p[1] * c), g = Math.tanh(zg);
    c = f * c + i * g;
    const o = s(zo + p[2] * c);
    h = o * Math.tanh(c);
    for (const [name, v] of Object.entries({ i, f, g, o, c, h })) curves[name].push(v);
  }
  return curves;
};

async function render({ model, el }) {
  const presets = model.get('presets'), count = model.get('count');
  const player = makePlayer(model, count, 'Step'), { play, slider, speed, index, stop } = player, status = make('div', 'lvr-status');
  let timer = 0, curves = null, latest = 0;
  const tell = () => { clearTimeout(timer); timer = setTimeout(() => model.save_changes(), 150); };
  const set = (key, value) => { model.set(key, value); tell(); };
  const copy = () => JSON.parse(JSON.stringify(model.get('weights')));

  // A slider for each weight, in a table: gates down, what they hear across
  const place = (kind, name) => kind === 'peephole' ? PEEPS[name] : NAMES.indexOf(name);
  const number = v => String(Math.round(v * 100) / 100).replace('-', '−');
  const knobs = [], heads = {}, table = make('table', 'lvr-knobs', {}, make('caption', 'lvr-soft', {}, 'What each gate hears, and how loudly'), make('tr', '', {}, make('td'), ...KINDS.map(kind => make('th', '', { scope: 'col' }, HEADS[kind]))));
  for (const name of NAMES) {
    heads[name] = make('th', '', { scope: 'row', style: `border-left:4px solid var(--lvr-${name}, currentColor)` }, WORDS[name]);
    const row = make('tr', '', {}, heads[name]);
    for (const kind of KINDS) {
      const k = place(kind, name), cell = make('td');
      row.append(cell);
      if (k === undefined) { cell.textContent = '–'; continue; }
      const knob = make('input', 'lvr-knob', { type: 'range', min: -MOST, max: MOST, step: .1, 'aria-label': `Weight of ${WORDS[name]} for the ${HEADS[kind]}` }), told = make('output');
      knob.addEventListener('input', () => { const w = copy(); w[kind][k] = Number(knob.value); set('weights', w); });
      knob.addEventListener('dblclick', () => { const w = copy(); w[kind][k] = 0; set('weights', w); });
      knobs.push({ knob, told, kind, k });
      cell.append(knob, told);
    }
    table.append(row);
  }
  const preset = make('select', 'lvr-speed', { 'aria-label': 'Story' }, make('option', '', { value: '' }, 'A story ...'), ...Object.entries(presets).map(([key, p]) => make('option', '', { value: key }, p.name)));
  const about = make('p', 'lvr-soft lvr-about', { role: 'status' });
  preset.addEventListener('change', () => {
    const chosen = presets[preset.value];
    if (!chosen) return;
    set('weights', JSON.parse(JSON.stringify(chosen.weights)));
    set('signal', [...chosen.signal]);
    set('peepholes', true);
    about.textContent = chosen.about;
  });
  const peeps = make('input', '', { type: 'checkbox' });
  peeps.addEventListener('change', () => set('peepholes', peeps.checked));
  const clear = make('button', 'lvr-button lvr-small', { type: 'button' }, 'Clear the input');
  clear.addEventListener('click', () => set('signal', Array(count).fill(0)));

  // The input, to be drawn
  const left = 116, paper = make('canvas', 'lvr-paper', { tabindex: 0, role: 'slider', 'aria-label': 'Input. Left and right choose a step, up and down change its value, 0 clears it', 'aria-valuemin': -1, 'aria-valuemax': 1 });
  const plots = make('canvas', 'lvr-plot', { role: 'img' }), track = make('div', 'lvr-curves', {}, paper, plots);
  const write = (from, to, value) => {
    const signal = [...model.get('signal')];
    for (let k = Math.min(from, to); k <= Math.max(from, to); k++) signal[k] = value;
    set('signal', signal);
  };
  const point = event => {
    const box = paper.getBoundingClientRect(), k = Math.floor((event.clientX - box.left - left) / (box.width - left) * count);
    const v = 1 - 2 * (event.clientY - box.top - 6) / (box.height - 12);
    return [Math.max(0, Math.min(count - 1, k)), Math.abs(v) < .06 ? 0 : Math.round(Math.max(-1, Math.min(1, v)) * 20) / 20];
  };
  paper.addEventListener('pointerdown', event => {
    stop();
    paper.setPointerCapture(event.pointerId);
    const [k, v] = point(event);
    latest = k;
    write(k, k, v);
    player.go(k);
    paper.focus({ preventScroll: true });
    event.preventDefault();
  });
  paper.addEventListener('pointermove', event => {
    if (!paper.hasPointerCapture(event.pointerId)) return;
    const [k, v] = point(event);
    write(latest + Math.sign(k - latest), k, v);
    latest = k;
    player.go(k);
  });
  paper.addEventListener('keydown', event => {
    const k = index(), v = model.get('signal')[k], turn = { ArrowUp: .1, ArrowDown: -.1 }[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (turn) write(k, k, Math.round(Math.max(-1, Math.min(1, v + turn)) * 100) / 100);
    else if (event.key === '0' || event.key === 'Delete') write(k, k, 0);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  makeScrubbing(plots, player, count, left);

  const colour = name => heads[name] ? getComputedStyle(heads[name]).borderLeftColor : getComputedStyle(root).color;
  const frameRow = (context, name, wide, top, high, low, up) => { // a name, a line at zero, and where things lie
    const y = v => top + high - (v - low) / (up - low) * high;
    context.fillStyle = getComputedStyle(root).color;
    context.font = '12px system-ui, sans-serif';
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    context.fillText(WORDS[name], left - 26, top + high / 2);
    context.fillStyle = getComputedStyle(status).color;
    context.font = '10px system-ui, sans-serif';
    for (const v of new Set([low, up])) context.fillText(number(v), left - 6, y(v) + (v === up ? 4 : -4));
    context.globalAlpha = .35;
    context.fillRect(left, y(Math.max(low, Math.min(up, 0))) - .5, wide - left, 1);
    context.globalAlpha = 1;
    return y;
  };
  const cursor = (context, wide, high) => {
    const step = (wide - left) / count;
    context.fillStyle = getComputedStyle(status).color;
    context.globalAlpha = .22;
    context.fillRect(left + index() * step, 0, step, high);
    context.globalAlpha = 1;
  };
  const draw = () => {
    const wide = track.clientWidth;
    if (wide <= left) return;
    const step = (wide - left) / count, tall = 76, context = fit(paper, wide, tall);
    cursor(context, wide, tall);
    const y = frameRow(context, 'x', wide, 6, tall - 12, -1, 1);
    context.fillStyle = colour('x');
    curves.x.forEach((v, t) => context.fillRect(left + t * step + 1, Math.min(y(v), y(0)) - (v ? 0 : 1), Math.max(1, step - 2), Math.max(2, Math.abs(y(v) - y(0)))));
    const rows = ['i', 'f', 'g', 'o', 'c', 'h'], high = 44, gap = 10, total = rows.length * (high + gap), chart = fit(plots, wide, total);
    cursor(chart, wide, total);
    rows.forEach((name, r) => {
      const values = curves[name], gate = 'ifo'.includes(name), reach = Math.max(1, ...values.map(Math.abs)), nice = name === 'c' ? Math.ceil(reach) : 1;
      const place = frameRow(chart, name, wide, r * (high + gap) + 5, high, gate ? 0 : -nice, nice);
      chart.strokeStyle = chart.fillStyle = colour(name);
      chart.lineWidth = 2;
      chart.beginPath();
      values.forEach((v, t) => { chart.lineTo(left + t * step, place(v)); chart.lineTo(left + (t + 1) * step, place(v)); });
      chart.stroke();
      if (!gate) return;
      chart.lineTo(wide, place(0));
      chart.lineTo(left, place(0));
      chart.globalAlpha = .25;
      chart.fill();
      chart.globalAlpha = 1;
    });
  };
  const say = v => v.toFixed(2).replace('-', '−');
  const showStep = () => {
    const k = index();
    slider.value = k;
    const told = ['x', 'i', 'f', 'g', 'o', 'c', 'h'].map(name => `${name} ${say(curves[name][k])}`).join(', ');
    slider.setAttribute('aria-valuetext', `step ${k + 1} of ${count}: ${told}`);
    paper.setAttribute('aria-valuenow', curves.x[k]);
    paper.setAttribute('aria-valuetext', `step ${k + 1}: ${say(curves.x[k])}`);
    status.replaceChildren(make('b', '', {}, `Step ${k + 1}`), ` of ${count}: ${told}`);
    draw();
  };
  const show = () => {
    const weights = model.get('weights'), on = model.get('peepholes');
    curves = runUnit(weights, model.get('signal'), on);
    knobs.forEach(({ knob, told, kind, k }) => {
      knob.value = weights[kind][k];
      told.textContent = number(weights[kind][k]);
      knob.disabled = kind === 'peephole' && !on;
    });
    peeps.checked = on;
    const h = curves.h, spoken = h.filter(v => Math.abs(v) > .5).length;
    plots.setAttribute('aria-label', `Gates, cell and output over ${count} steps: the cell ends at ${say(curves.c[count - 1])}, the output is beyond a half at ${spoken} steps`);
    showStep();
  };

  const title = model.get('title');
  const root = make('div', 'lvr lvr-plain lvr-lab', { role: 'group', 'aria-label': title || 'Cell lab: one LSTM unit', 'data-lm-suppress-shortcuts': 'true' },
    ...(title ? [make('div', 'lvr-title', {}, title)] : []),
    make('div', 'lvr-line', {}, preset, make('label', 'lvr-flag', {}, peeps, 'Peepholes'), clear), about,
    table, make('div', 'lvr-caption lvr-soft', {}, 'Draw the input with the pointer, or with the arrow keys'), track, make('div', 'lvr-controls', {}, play, slider, speed), status);
  el.replaceChildren(root);
  listenKeys(track, player, count);
  listenKeys(root.querySelector('.lvr-controls'), player, count);

  const events = ['change:weights', 'change:signal', 'change:peepholes'];
  events.forEach(e => model.on(e, show));
  model.on('change:index', showStep);
  el.lab = { curves: () => curves };
  const found = Object.values(presets).find(p => JSON.stringify(p.weights) === JSON.stringify(model.get('weights')));
  if (found) about.textContent = found.about;
  show();
  const unfollow = followTheme(draw), resize = new ResizeObserver(draw);
  resize.observe(track);
  return () => { stop(); clearTimeout(timer); resize.disconnect(); unfollow(); events.forEach(e => model.off(e, show)); model.off('change:index', showStep); };
}

export default { render };
