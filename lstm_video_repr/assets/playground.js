// The playground: digits that a reader places, throws and draws, and a network that follows. The network runs in the page (network.js); its weights come from a script of the page or, in a notebook, from the kernel.
// Until they are there an example that was computed beforehand stands in their place.

const FRAMES = 60, PAST = 10, SOON = 20, FASTEST = .2; // frames shown; those the network sees; future frames that come at once; share of the way per frame
const COPY = value => JSON.parse(JSON.stringify(value));

// A scene as it may be, its parts in one order, out of whatever came (from a link, or from Python), or null
const readScene = (value, { side, units }, hands) => {
  const whole = (v, low, high) => Number.isInteger(v) && v >= low && v <= high, number = (v, low, high) => typeof v === 'number' && v >= low && v <= high;
  const isDigit = d => (d.ink === undefined ? whole(d.digit, 0, 9) && whole(d.hand, 0, hands - 1) : typeof d.ink === 'string' && d.ink.length === side * side && /^[0-9a-f]*$/.test(d.ink))
    && number(d.row, 0, 1) && number(d.column, 0, 1) && number(d.down, -.5, .5) && number(d.right, -.5, .5);
  const isHold = h => GATES.includes(h.gate) && (h.unit === null || whole(h.unit, 0, units - 1)) && (h.value === 0 || h.value === 1) && ['all', 'encoder', 'recall', 'future'].includes(h.part);
  try {
    const s = { digits: [], seen: [...Array(PAST).keys()].map(k => k + 1), holds: [], weights: 'trained', peepholes: true, truth: true, seed: 0, ...value };
    const fits = s.digits.length >= 1 && s.digits.length <= 4 && s.digits.every(isDigit) && s.seen.length === PAST && s.seen.every(k => whole(k, 0, PAST))
      && s.holds.length <= 8 && s.holds.every(isHold) && ['trained', 'random'].includes(s.weights) && typeof s.peepholes === 'boolean' && typeof s.truth === 'boolean' && whole(s.seed, 0, 2 ** 31 - 1);
    if (!fits) return null;
    const digits = s.digits.map(({ ink, digit, hand, row, column, down, right }) => ({ ...(ink === undefined ? { digit, hand } : { ink }), row, column, down, right }));
    return COPY({ digits, seen: s.seen, holds: s.holds.map(({ gate, unit, value, part }) => ({ gate, unit, value, part })), weights: s.weights, peepholes: s.peepholes, truth: s.truth, seed: s.seed });
  } catch { return null; }
};

const writeLink = scene => '#play=' + btoa(JSON.stringify(scene)).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
const readLink = hash => {
  if (!hash.startsWith('#play=')) return undefined;
  try { return JSON.parse(atob(hash.slice(6).replace(/-/g, '+').replace(/_/g, '/'))); } catch { return undefined; }
};

// Scene number `seed`: as many digits, anywhere, in any direction
const drawScene = (scene, hands) => {
  const at = (k, stream) => uniform(scene.seed, k, stream), short = v => Math.round(v * 1e4) / 1e4;
  return scene.digits.map((_, k) => {
    const angle = 2 * Math.PI * at(k, 3), speed = .05 + .1 * at(k, 4);
    return { digit: Math.floor(10 * at(k, 0)), hand: Math.floor(hands * at(k, 5)), row: short(at(k, 1)), column: short(at(k, 2)), down: short(speed * Math.sin(angle)), right: short(speed * Math.cos(angle)) };
  });
};

// The weights as bytes: from a script of this page, from one that the element names, or from the kernel. Null if they are nowhere.
const findWeights = async (model, el, digest) => {
  const here = () => globalThis.lvrWeights?.[digest], address = el.dataset?.weights;
  if (!here() && address) await new Promise(done => {
    const script = make('script', '', { src: address });
    script.onload = script.onerror = done;
    document.head.append(script);
  });
  if (here()) return readBytes(here());
  if (typeof model.send !== 'function') return null;
  return new Promise(done => {
    const heard = (message, buffers) => {
      if (message?.weights !== digest || !buffers?.length) return;
      const [b] = buffers;
      model.off('msg:custom', heard);
      done(b instanceof DataView ? new Uint8Array(b.buffer, b.byteOffset, b.byteLength) : new Uint8Array(b));
    };
    model.on('msg:custom', heard);
    model.send({ want: 'weights' });
    setTimeout(() => done(null), 15000);
  });
};

async function render({ model, el }) {
  const net = model.get('network'), { size, side, units, digest, layout } = net, { hands, data } = model.get('sprites'), example = model.get('example');
  const sprites = readBytes(data), first = readScene(model.get('scene'), net, hands), values = size * size, room = size - side;
  const linked = typeof model.send === 'function' || document.querySelector('.lvr-host[data-kind=playground]') !== el ? undefined : readScene(readLink(location.hash), net, hands);
  let scene = linked ?? COPY(first), chosen = 0, arrays = null, random = null, waiting = 'loading', said = null;
  const undone = [], latencies = [];

  const spriteOf = (digit, hand) => sprites.subarray((digit * hands + hand) * side * side, (digit * hands + hand + 1) * side * side);
  const inkOf = d => d.ink === undefined ? spriteOf(d.digit, d.hand) : Uint8Array.from(d.ink, c => parseInt(c, 16) * 17);
  const nameOf = d => d.ink === undefined ? `digit ${d.digit}` : 'your drawing';

  // ---- what there is to see, computed

  let clip, seen, recalled, expected, recallNats, futureNats, pending = null;
  const think = () => {
    clip = paintClip(scene.digits.map(d => ({ ...d, ink: inkOf(d) })), side, size, FRAMES);
    seen = scene.seen.map(k => k ? clip[k - 1] : new Float32Array(values));
    [recalled, expected, recallNats, futureNats, pending] = [[], [], [], [], null];
    if (!arrays) return showExample();
    if (scene.weights === 'random' && random?.seed !== scene.seed) random = { seed: scene.seed, arrays: drawArrays(arrays, layout, scene.seed) };
    const network = makeNetwork(scene.weights === 'random' ? random.arrays : arrays, scene), state = network.watch(seen);
    const recall = network.start('recall', state), future = network.start('future', state);
    for (let t = PAST - 1; t >= 0; t--) { // it was trained to play its input backwards
      const { grey, nats } = readFrame(recall(), seen[t]);
      [recalled[t], recallNats[t]] = [grey, nats];
    }
    pending = () => {
      const { grey, nats } = readFrame(future(), clip[PAST + expected.length]);
      expected.push(grey);
      futureNats.push(nats);
    };
    while (expected.length < SOON) pending();
  };
  const showExample = () => {
    if (JSON.stringify(scene) !== JSON.stringify(first) || !example.frames) return;
    recalled = example.frames.slice(0, PAST);
    expected = example.frames.slice(PAST);
    recallNats = example.nats.slice(0, PAST);
    futureNats = example.nats.slice(PAST);
  };

  // ---- the scene, to take hold of

  const board = make('canvas', 'lvr-floor', { width: size, height: size, role: 'img' });
  const arrows = make('canvas', 'lvr-vectors', { 'aria-hidden': 'true' });
  const stage = make('div', 'lvr-yard', {}, board, arrows);
  const reach = side / (2 * FASTEST * room || 1), percent = v => `${100 * v / size}%`; // frames that an arrow looks ahead, so that the fastest ends at the digit's edge
  const short = v => Math.round(v * 1e4) / 1e4, within = (v, low, high) => Math.min(Math.max(v, low), high);
  const placeOf = d => [d.row * room, d.column * room];
  const tipOf = d => [d.row * room + side / 2 + d.down * room * reach, d.column * room + side / 2 + d.right * room * reach];
  const setSpeed = (d, down, right) => {
    const slower = Math.min(1, FASTEST / Math.hypot(down, right) || 1);
    [d.down, d.right] = [short(down * slower), short(right * slower)];
  };
  const grips = [...Array(4).keys()].map(k => ({ body: make('button', 'lvr-grip', { type: 'button' }), tip: make('button', 'lvr-tip', { type: 'button' }) }));
  stage.append(...grips.map(g => g.body), ...grips.map(g => g.tip));

  let before = null, frame = 0, asked = 0; // the scene before a gesture; the frame that is asked for; when the hand moved
  const begin = () => { before = JSON.stringify(scene); };
  const end = () => {
    const now = JSON.stringify(scene);
    if (before !== null && before !== now) {
      undone.push(before);
      if (undone.length > 200) undone.shift();
    }
    before = null;
    showTools();
    tell();
  };
  const change = edit => { begin(); edit(scene); refresh(); end(); };
  const refresh = (when = performance.now()) => {
    if (!frame) { asked = when; frame = requestAnimationFrame(() => { frame = 0; update(); latencies.push(performance.now() - asked); if (latencies.length > 5000) latencies.shift(); }); }
  };
  let timer = 0;
  const tell = () => { // others hear of a scene once the hand rests
    clearTimeout(timer);
    timer = setTimeout(() => {
      said = JSON.stringify(readScene(scene, net, hands));
      if (said === JSON.stringify(readScene(model.get('scene'), net, hands))) return;
      model.set('scene', JSON.parse(said));
      model.save_changes();
      if (link) { try { history.replaceState(history.state, '', writeLink(scene)); } catch { /* a page that may not: the link below still works */ } }
      unread = '';
      showNote();
      speak();
    }, 150);
  };
  const link = typeof model.send === 'function' || document.querySelector('.lvr-host[data-kind=playground]') !== el ? null : make('a', 'lvr-link', { href: '#' }, 'Link to this');

  const drag = (node, k, move) => {
    let from = null;
    node.addEventListener('pointerdown', event => {
      chosen = k;
      begin();
      node.setPointerCapture(event.pointerId);
      const box = board.getBoundingClientRect(), d = scene.digits[k], [y, x] = node.className === 'lvr-tip' ? tipOf(d) : placeOf(d);
      from = { dy: y - (event.clientY - box.top) / box.height * size, dx: x - (event.clientX - box.left) / box.width * size };
      node.focus({ preventScroll: true });
      event.preventDefault();
      showTools();
      drawStage();
    });
    node.addEventListener('pointermove', event => {
      if (!from || !node.hasPointerCapture(event.pointerId)) return;
      const box = board.getBoundingClientRect();
      move(scene.digits[k], (event.clientY - box.top) / box.height * size + from.dy, (event.clientX - box.left) / box.width * size + from.dx);
      refresh(event.timeStamp);
    });
    const stop = () => { if (from) { from = null; end(); } };
    node.addEventListener('pointerup', stop);
    node.addEventListener('pointercancel', stop);
    node.addEventListener('focus', () => { if (chosen !== k) { chosen = k; showTools(); drawStage(); } });
  };
  const arrowKeys = (node, k, move) => node.addEventListener('keydown', event => {
    const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (way && !event.altKey && !event.ctrlKey && !event.metaKey) change(s => move(s.digits[k], ...way));
    else if (event.key === 'Delete' || event.key === 'Backspace') remove();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  grips.forEach(({ body, tip }, k) => {
    const put = (d, y, x) => { d.row = short(within(y / room, 0, 1)); d.column = short(within(x / room, 0, 1)); };
    drag(body, k, put);
    arrowKeys(body, k, (d, y, x) => put(d, d.row * room + y, d.column * room + x));
    drag(tip, k, (d, y, x) => setSpeed(d, (y - d.row * room - side / 2) / (room * reach), (x - d.column * room - side / 2) / (room * reach)));
    arrowKeys(tip, k, (d, y, x) => setSpeed(d, d.down + y * .01, d.right + x * .01));
  });

  const greyImage = (pixels, width, high, scale = 1) => {
    const image = new ImageData(width, high), words = new Uint32Array(image.data.buffer);
    for (let k = 0; k < words.length; k++) { const v = Math.round(pixels[k] * scale); words[k] = 0xff000000 | v << 16 | v << 8 | v; }
    return image;
  };
  const drawStage = () => {
    board.getContext('2d').putImageData(greyImage(clip[0], size, size, 255), 0, 0);
    board.setAttribute('aria-label', `Frame 1: ${scene.digits.map(nameOf).join(', ')}`);
    const wide = stage.clientWidth, unit = wide / size;
    grips.forEach(({ body, tip }, k) => {
      const d = scene.digits[k];
      body.hidden = tip.hidden = !d;
      if (!d) return;
      const [y, x] = placeOf(d), [ty, tx] = tipOf(d), speed = Math.hypot(d.down, d.right);
      body.style.cssText = `top:${percent(Math.trunc(y))};left:${percent(Math.trunc(x))};width:${percent(side)};height:${percent(side)}`;
      tip.style.cssText = `top:${percent(ty)};left:${percent(tx)}`;
      body.classList.toggle('lvr-picked', k === chosen);
      body.setAttribute('aria-label', `${nameOf(d)}, ${k + 1} of ${scene.digits.length}: row ${Math.trunc(y)}, column ${Math.trunc(x)}. Arrow keys move it, Delete removes it.`);
      tip.setAttribute('aria-label', `Speed of ${nameOf(d)}: ${(100 * speed).toFixed(0)} percent of the way per frame. Arrow keys change it.`);
    });
    if (!wide) return;
    const context = fit(arrows, wide, wide);
    context.lineCap = context.lineJoin = 'round';
    for (const d of scene.digits) {
      const rows = bounce(d.row, d.down, PAST).map(p => (p * room + side / 2) * unit), columns = bounce(d.column, d.right, PAST).map(p => (p * room + side / 2) * unit);
      context.strokeStyle = '#7fb6e6';
      context.lineWidth = 1.5;
      context.setLineDash([2, 4]);
      context.beginPath();
      rows.forEach((y, t) => context.lineTo(columns[t], y));
      context.stroke();
      context.setLineDash([]);
      const [y, x] = [rows[0], columns[0]], [ty, tx] = tipOf(d).map(v => v * unit), angle = Math.atan2(ty - y, tx - x);
      for (const [colour, line] of [['#000', 5], ['#ffd34d', 2.5]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.beginPath();
        context.moveTo(x, y);
        context.lineTo(tx, ty);
        for (const turn of [2.6, -2.6]) { context.moveTo(tx, ty); context.lineTo(tx + 9 * Math.cos(angle + turn), ty + 9 * Math.sin(angle + turn)); }
        context.stroke();
      }
    }
  };

  // ---- tools: which digit, whose hand, a pad to draw on

  const small = (label, act, more = {}) => {
    const button = make('button', 'lvr-button lvr-small', { type: 'button', ...more }, label);
    button.addEventListener('click', act);
    return button;
  };
  const picked = [], replaced = () => picked[chosen] ?? { digit: 0, hand: 0 }; // what was there before a drawing
  const pick = edit => change(s => { const d = s.digits[chosen]; delete d.ink; edit(d); });
  const names = [...Array(10).keys()].map(n => small(String(n), () => pick(d => { d.digit = n; d.hand = d.hand ?? replaced().hand; }), { 'aria-label': `Digit ${n}` }));
  const hand = [...Array(hands).keys()].map(n => {
    const picture = make('canvas', '', { width: side, height: side });
    const button = small('', () => pick(d => { d.digit = d.digit ?? replaced().digit; d.hand = n; }), { 'aria-label': `Handwriting ${n + 1}` });
    button.classList.add('lvr-hand');
    button.append(picture);
    return { button, picture };
  });
  const remove = () => { if (scene.digits.length > 1) { change(s => s.digits.splice(chosen, 1)); chosen = Math.max(0, chosen - 1); showTools(); } };
  const add = small('Add', () => { if (scene.digits.length < 4) { change(s => s.digits.push({ digit: s.digits.length * 3 % 10, hand: 0, row: .5, column: .5, down: .04, right: .07 })); chosen = scene.digits.length - 1; showTools(); } });
  const drop = small('Remove', remove), draw = small('Draw', () => openPad(pad.hidden), { 'aria-expanded': 'false' });
  const undo = small('Undo', () => back(), { title: 'Ctrl+Z' }), reset = small('Reset', () => change(s => Object.assign(s, COPY(first))));
  const another = small('Another', () => change(s => { s.seed = (s.seed + 1) % 2 ** 31; s.digits = drawScene(s, hands); }), { title: 'The next scene by its number' });
  const back = () => {
    if (!undone.length) return;
    scene = JSON.parse(undone.pop());
    showTools();
    refresh();
    tell();
  };

  // The pad: 24 x 24 squares as in the middle of a MNIST picture, four times as fine, then averaged down as the digits were
  const FINE = 96, GRID = 24, surface = new Float32Array(FINE * FINE), paper = make('canvas', 'lvr-paper', { width: FINE, height: FINE, tabindex: 0, role: 'application', 'aria-label': 'Drawing pad. Arrow keys move the pen, space sets it down or lifts it.' });
  const pen = make('span', 'lvr-pen', { 'aria-hidden': 'true' }), penWords = make('span', 'lvr-soft', { role: 'status' });
  const pad = make('div', 'lvr-pad', {}, make('div', 'lvr-sheet', {}, paper, pen), make('div', '', {}, make('p', 'lvr-soft', {}, 'Draw a digit, or whatever you like: it replaces the chosen one, and Clear brings that back.'), small('Clear', () => {
    surface.fill(0);
    showPaper();
    if (scene.digits[chosen].ink !== undefined) pick(d => Object.assign(d, replaced()));
  }), penWords));
  pad.hidden = true;
  const at = { x: FINE / 2, y: FINE / 2, down: false };
  const openPad = open => {
    pad.hidden = !open;
    draw.setAttribute('aria-expanded', String(open));
    if (open) { surface.fill(0); showPaper(); paper.focus({ preventScroll: true }); }
  };
  const showPaper = () => {
    paper.getContext('2d').putImageData(greyImage(surface, FINE, FINE, 255), 0, 0);
    pen.style.cssText = `left:${100 * at.x / FINE}%;top:${100 * at.y / FINE}%`;
    pen.classList.toggle('lvr-down', at.down);
    penWords.textContent = document.activeElement === paper ? `pen ${at.down ? 'down' : 'up'}, row ${Math.round(at.y / 4)}, column ${Math.round(at.x / 4)}` : '';
  };
  const stroke = (x, y, ex, ey) => { // a soft round tip, as wide as a pencil's line in MNIST
    const radius = 6, steps = Math.ceil(Math.hypot(ex - x, ey - y)) || 1;
    for (let k = 0; k <= steps; k++) {
      const px = x + (ex - x) * k / steps, py = y + (ey - y) * k / steps;
      for (let r = Math.max(0, Math.floor(py - 8)); r < Math.min(FINE, py + 8); r++) for (let c = Math.max(0, Math.floor(px - 8)); c < Math.min(FINE, px + 8); c++) {
        const v = within((radius + 1.5 - Math.hypot(c + .5 - px, r + .5 - py)) / 3, 0, 1);
        if (v > surface[r * FINE + c]) surface[r * FINE + c] = v;
      }
    }
    const squares = shrinkPicture(surface, FINE, GRID), ink = shrinkPicture(squares, GRID, side);
    const d = scene.digits[chosen];
    if (d.ink === undefined) picked[chosen] = { digit: d.digit, hand: d.hand };
    d.ink = Array.from(ink, v => Math.round(15 * v).toString(16)).join('');
    delete d.digit;
    delete d.hand;
  };
  const padPoint = event => { const box = paper.getBoundingClientRect(); return [within((event.clientX - box.left) / box.width, 0, 1) * FINE, within((event.clientY - box.top) / box.height, 0, 1) * FINE]; };
  paper.addEventListener('pointerdown', event => {
    begin();
    paper.setPointerCapture(event.pointerId);
    [at.x, at.y] = padPoint(event);
    stroke(at.x, at.y, at.x, at.y);
    paper.focus({ preventScroll: true });
    showPaper();
    showTools();
    refresh(event.timeStamp);
    event.preventDefault();
  });
  paper.addEventListener('pointermove', event => {
    if (!paper.hasPointerCapture(event.pointerId)) return;
    const [x, y] = padPoint(event);
    stroke(at.x, at.y, x, y);
    [at.x, at.y] = [x, y];
    showPaper();
    refresh(event.timeStamp);
  });
  paper.addEventListener('pointerup', end);
  paper.addEventListener('pointercancel', end);
  paper.addEventListener('keydown', event => {
    const way = { ArrowUp: [0, -4], ArrowDown: [0, 4], ArrowLeft: [-4, 0], ArrowRight: [4, 0] }[event.key];
    if (event.key === ' ') at.down = !at.down;
    else if (!way) return;
    const [dx, dy] = way ?? [0, 0], x = within(at.x + dx, 0, FINE), y = within(at.y + dy, 0, FINE);
    if (at.down) { begin(); stroke(at.x, at.y, x, y); refresh(); end(); showTools(); }
    [at.x, at.y] = [x, y];
    showPaper();
    event.preventDefault();
    event.stopPropagation();
  });
  paper.addEventListener('focus', showPaper);
  paper.addEventListener('blur', showPaper);

  const drawn = make('span', 'lvr-odd', {}, 'drawn');
  const showTools = () => {
    chosen = Math.min(chosen, scene.digits.length - 1);
    const d = scene.digits[chosen];
    names.forEach((b, n) => b.setAttribute('aria-pressed', String(d.ink === undefined && d.digit === n)));
    hand.forEach(({ button, picture }, n) => {
      button.setAttribute('aria-pressed', String(d.ink === undefined && d.hand === n));
      picture.getContext('2d').putImageData(greyImage(spriteOf(d.digit ?? replaced().digit, n), side, side), 0, 0);
    });
    drawn.hidden = d.ink === undefined;
    add.disabled = scene.digits.length >= 4;
    drop.disabled = scene.digits.length < 2;
    undo.disabled = !undone.length;
  };

  // ---- what it sees, recalls and expects: blocks of ten frames, two rows each

  const screens = ['truth', 'network'].map(name => {
    const caption = make('div', 'lvr-caption'), canvas = make('canvas', 'lvr-frame', { width: size, height: size, role: 'img' });
    return { caption, canvas, node: make('div', 'lvr-panel', {}, caption, canvas) };
  });
  const player = makePlayer(model, FRAMES, 'Frame'), { play, slider, speed, index, stop } = player, status = make('div', 'lvr-status');
  const blocks = [...Array(FRAMES / 10).keys()].map(b => {
    const rows = [0, 1].map(() => make('canvas', 'lvr-film', { width: 10 * (size + 1) - 1, height: size }));
    const marker = make('div', 'lvr-marker'), track = make('div', 'lvr-track', {}, ...rows, make('div', 'lvr-bar', {}, make('span', b ? 'lvr-future' : 'lvr-past', { style: 'width:100%' })), marker);
    const caption = make('div', 'lvr-caption lvr-soft');
    makeScrubbing(track, { ...player, go: k => player.go(10 * b + Math.max(0, Math.min(9, k))) }, 10);
    return { rows, marker, track, caption, node: make('div', 'lvr-block', { role: 'img' }, caption, track) };
  });
  const chart = make('canvas', 'lvr-plot', { role: 'img' });

  const drawFilms = (from = 0) => {
    for (let t = from; t < FRAMES; t++) {
      const { rows } = blocks[Math.floor(t / 10)], x = (t % 10) * (size + 1);
      const [above, below] = [t < PAST ? seen[t] : scene.truth ? clip[t] : null, t < PAST ? recalled[t] : expected[t - PAST]];
      [[above, 255], [below, 1]].forEach(([pixels, scale], r) => {
        const context = rows[r].getContext('2d');
        if (pixels) context.putImageData(greyImage(pixels, size, size, scale), x, 0);
        else context.clearRect(x, 0, size, size);
      });
    }
  };
  const mean = list => list.reduce((a, b) => a + b, 0) / list.length;
  const nats = v => v.toFixed(v < 100 ? 1 : 0);
  const drawChart = () => {
    const wide = chart.parentNode.clientWidth, high = 118, left = 38, foot = 16;
    if (!wide) return;
    const context = fit(chart, wide, high), style = getComputedStyle(root), all = [...recallNats, ...(scene.truth ? futureNats : [])];
    const top = Math.max(50, ...all.filter(Number.isFinite)) * 1.08, x = t => left + (t + .5) / FRAMES * (wide - left), y = v => 6 + (1 - v / top) * (high - foot - 8);
    context.font = '11px system-ui, sans-serif';
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    const soft = getComputedStyle(status).color, step = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find(s => top / s < 4) ?? 10000;
    for (let v = 0; v <= top; v += step) {
      context.fillStyle = soft;
      context.fillText(String(v), left - 6, y(v));
      context.globalAlpha = .2;
      context.fillRect(left, y(v) - .5, wide - left, 1);
      context.globalAlpha = 1;
    }
    context.textAlign = 'center';
    for (const t of [1, 10, 20, 30, 40, 50, 60]) context.fillText(String(t), Math.min(wide - 8, x(t - 1)), high - 7);
    context.globalAlpha = .25;
    context.fillStyle = soft;
    context.fillRect(x(index()) - (wide - left) / FRAMES / 2, 4, (wide - left) / FRAMES, high - foot - 4);
    context.globalAlpha = 1;
    [[recallNats, 0, 'past'], [scene.truth ? futureNats : [], PAST, 'future']].forEach(([list, from, kind]) => {
      context.strokeStyle = context.fillStyle = style.getPropertyValue(`--lvr-${kind}`).trim() || soft;
      context.lineWidth = 2;
      context.beginPath();
      list.forEach((v, t) => context.lineTo(x(from + t), y(v)));
      context.stroke();
      list.forEach((v, t) => { // round for what is recalled, square for what is expected
        context.beginPath();
        if (from) context.rect(x(from + t) - 2.5, y(v) - 2.5, 5, 5);
        else context.arc(x(t), y(v), 3, 0, 7);
        context.fill();
      });
    });
  };
  const words = () => {
    if (!recallNats.length) return { loading: 'The network is on its way.', missing: 'The network itself is not in this page.' }[waiting] ?? '';
    const ahead = scene.truth && futureNats.length ? `; expected, 10 frames ahead ${nats(mean(futureNats.slice(0, 10)))}, all ${futureNats.length} ${nats(mean(futureNats))}` : '';
    return `Nats per frame: recalled ${nats(mean(recallNats))}${ahead}.`;
  };
  const summary = make('p', 'lvr-soft lvr-summary', { role: 'status' }), note = make('p', 'lvr-soft lvr-wait', { role: 'status' });
  let unread = linked === null && location.hash.startsWith('#play=') ? 'This link could not be read; here is the start. ' : '', absent = '';
  const showNote = () => { note.textContent = unread + absent; };
  const speak = () => { summary.textContent = words(); chart.setAttribute('aria-label', `Curve of nats per frame. ${words()}`); };
  const showTime = () => {
    const k = index(), past = k < PAST;
    const above = past ? seen[k] : scene.truth ? clip[k] : null, below = past ? recalled[k] : expected[k - PAST];
    [[above, 255, past ? 'what it sees' : 'truth'], [below, 1, past ? 'recalled' : 'expected']].forEach(([pixels, scale, name], r) => {
      const { canvas, caption } = screens[r], context = canvas.getContext('2d');
      if (pixels) context.putImageData(greyImage(pixels, size, size, scale), 0, 0);
      else context.clearRect(0, 0, size, size);
      canvas.classList.toggle('lvr-empty', !pixels);
      canvas.setAttribute('aria-label', `${name}, frame ${k + 1}${pixels ? '' : ': not shown'}`);
      if (caption.textContent !== name) caption.textContent = name;
    });
    blocks.forEach(({ marker }, b) => {
      marker.hidden = Math.floor(k / 10) !== b;
      marker.style.left = `${10 * (k % 10)}%`;
      marker.style.width = '10%';
    });
    root.dataset.when = past ? 'past' : 'future';
    slider.value = k;
    const cost = past ? recallNats[k] : scene.truth ? futureNats[k - PAST] : undefined, told = cost === undefined ? '' : `, ${nats(cost)} nats`;
    slider.setAttribute('aria-valuetext', `frame ${k + 1} of ${FRAMES}, ${past ? 'past' : 'future'}${told}`);
    status.replaceChildren(make('b', '', {}, `Frame ${k + 1}`), ` of ${FRAMES}${told}`, make('i', 'lvr-dot'), past ? 'past: the network sees it' : 'future: it guesses');
    drawChart();
  };
  const nameBlocks = () => blocks.forEach(({ node, caption }, b) => {
    const words = !b ? 'what it sees, below it what it recalls' : scene.truth ? 'truth, below it what is expected' : 'the truth is hidden, below it what is expected';
    caption.textContent = `${10 * b + 1} to ${10 * b + 10}: ${words}`;
    const list = (b ? futureNats : recallNats).slice(b ? 10 * b - 10 : 0, b ? 10 * b : 10);
    node.setAttribute('aria-label', `Frames ${10 * b + 1} to ${10 * b + 10}: ${b ? 'truth and what is expected' : 'what it sees and what it recalls'}` + (list.length && (scene.truth || !b) ? `; nats per frame ${list.map(nats).join(', ')}` : ''));
  });

  // ---- switches

  const flag = (words, read, write) => {
    const box = make('input', '', { type: 'checkbox' });
    box.addEventListener('change', () => change(s => write(s, box.checked)));
    return { node: make('label', 'lvr-flag', {}, box, words), show: () => { box.checked = read(scene); } , box };
  };
  const flags = [flag('Hide the truth', s => !s.truth, (s, on) => { s.truth = !on; }),
    flag('Random weights: a network that has learned nothing', s => s.weights === 'random', (s, on) => { s.weights = on ? 'random' : 'trained'; }),
    flag('Without peepholes', s => !s.peepholes, (s, on) => { s.peepholes = !on; })];
  if (!net.peephole) flags[2].box.disabled = true;
  let swapping = null; // the place that waits for its partner
  const tool = make('select', 'lvr-speed', { 'aria-label': 'What a frame number does' }, make('option', '', { value: 'black' }, 'Blacken'), make('option', '', { value: 'swap' }, 'Swap'));
  const places = [...Array(PAST).keys()].map(k => small('', () => {
    if (tool.value === 'black') return change(s => { s.seen[k] = s.seen[k] ? 0 : k + 1; });
    if (swapping === null) swapping = k;
    else {
      const other = swapping;
      swapping = null;
      if (other !== k) change(s => { [s.seen[other], s.seen[k]] = [s.seen[k], s.seen[other]]; });
    }
    showPlaces();
  }));
  tool.addEventListener('change', () => { swapping = null; showPlaces(); });
  const showPlaces = () => places.forEach((button, k) => {
    const from = scene.seen[k];
    button.textContent = from === 0 ? '■' : String(from);
    button.setAttribute('aria-pressed', String(swapping === k));
    button.classList.toggle('lvr-odd', from !== k + 1);
    button.setAttribute('aria-label', `Place ${k + 1}: ${from === 0 ? 'black' : `frame ${from}`}${swapping === k ? ', waiting for the other' : ''}`);
  });
  const menu = (label, options) => make('select', 'lvr-speed', { 'aria-label': label }, ...options.map(([value, text]) => make('option', '', { value }, text)));
  const SAYS = { i: 'input gate', f: 'forget gate', g: 'candidate', o: 'output gate', h: 'output', all: 'everywhere', encoder: 'in the encoder', recall: 'in the decoder that recalls', future: 'in the decoder that goes on' };
  const gate = menu('What to hold', [...GATES].map(g => [g, SAYS[g]])), value = menu('At what', [[0, 'at 0'], [1, 'at 1']]), part = menu('Where', ['all', 'encoder', 'recall', 'future'].map(p => [p, SAYS[p]]));
  const unit = make('input', 'lvr-which', { type: 'number', min: 0, max: units - 1, placeholder: 'all', 'aria-label': `Unit, 0 to ${units - 1}; empty: all` });
  const hold = small('Hold', () => {
    if (!unit.reportValidity()) return; // the browser says why
    const u = unit.value === '' ? null : Number(unit.value);
    if (scene.holds.length < 8) change(s => s.holds.push({ gate: gate.value, unit: u, value: Number(value.value), part: part.value }));
  });
  const held = make('div', 'lvr-held', { role: 'list', 'aria-label': 'Held' });
  const sayHold = h => `${SAYS[h.gate]} of ${h.unit === null ? 'all units' : `unit ${h.unit}`} at ${h.value}, ${SAYS[h.part]}`;
  const showHolds = () => held.replaceChildren(...scene.holds.map((h, k) => {
    const words = sayHold(h);
    return make('div', 'lvr-hold', { role: 'listitem' }, words, small('×', () => change(s => s.holds.splice(k, 1)), { 'aria-label': `Let go: ${words}` }));
  }));
  const told = make('span', 'lvr-soft', { role: 'status' });
  link?.addEventListener('click', event => { if (!(event.ctrlKey || event.metaKey || event.shiftKey)) told.textContent = ' The address of this page now holds the scene: copy it.'; });
  const altered = make('p', 'lvr-altered', { role: 'status' }); // what is not as it was trained, for those who have not opened the switches
  const showAltered = () => {
    const black = scene.seen.filter(k => !k).length;
    const list = [...scene.holds.map(sayHold), scene.weights === 'random' && 'random weights', !scene.peepholes && 'no peepholes', black && `${black} of the frames it sees black`,
      scene.seen.some((k, t) => k && k !== t + 1) && 'frames it sees out of order', !scene.truth && 'truth hidden'].filter(Boolean), words = list.length ? `Changed: ${list.join('; ')}.` : '';
    if (altered.textContent !== words) altered.textContent = words;
  };
  const showSwitches = () => { flags.forEach(f => f.show()); showPlaces(); showHolds(); showAltered(); };
  const row = (label, ...nodes) => make('div', 'lvr-set', {}, make('span', 'lvr-label', {}, label), make('div', 'lvr-line', {}, ...nodes));

  // ---- everything in its place

  const title = model.get('title'), time = make('div', 'lvr-time', {}, make('div', 'lvr-blocks', {}, ...blocks.map(b => b.node)), make('div', 'lvr-chart', {}, make('div', 'lvr-caption lvr-soft', {}, 'Nats per frame (● recalled, ■ expected)'), chart),
    make('div', 'lvr-controls', {}, play, slider, speed), status);
  const root = make('div', 'lvr lvr-play', { role: 'group', 'aria-label': title || 'Playground: a network under your hand', 'data-lm-suppress-shortcuts': 'true' },
    ...(title ? [make('div', 'lvr-title', {}, title)] : []),
    make('div', 'lvr-top', {}, make('div', '', {}, make('div', 'lvr-caption lvr-soft', {}, 'Frame 1: drag a digit, drag the tip of its arrow'), stage),
      make('div', 'lvr-side', {}, make('div', 'lvr-line', { role: 'group', 'aria-label': 'Which digit' }, ...names, drawn), make('div', 'lvr-line', { role: 'group', 'aria-label': 'Whose handwriting' }, ...hand.map(h => h.button)),
        make('div', 'lvr-line', {}, add, drop, draw, undo, reset, another), pad, make('div', 'lvr-panels lvr-two', {}, ...screens.map(s => s.node)))),
    note, time, summary, altered,
    make('details', 'lvr-switches', {}, make('summary', '', {}, 'Switches: change what it sees, take it apart'), ...flags.map(f => f.node), row('Frames it sees', tool, ...places),
      row('Hold', gate, make('span', 'lvr-soft', {}, 'of unit'), unit, value, part, hold), held, ...(link ? [link, told] : [])));
  root.style.setProperty('--lvr-seen', `${100 * (PAST - .5) / (FRAMES - 1)}%`);
  el.replaceChildren(root);
  root.addEventListener('keydown', event => {
    if (event.key.toLowerCase() !== 'z' || !(event.ctrlKey || event.metaKey) || event.altKey || event.target.type === 'number') return;
    back();
    event.preventDefault();
    event.stopPropagation();
  });
  listenKeys(time, player, FRAMES);

  let idle = 0;
  const later = globalThis.requestIdleCallback ? f => requestIdleCallback(f, { timeout: 300 }) : f => setTimeout(f, 10), never = globalThis.cancelIdleCallback ?? clearTimeout;
  const rest = () => { // the far frames, in slices that no hand notices
    idle = 0;
    if (!pending || expected.length >= FRAMES - PAST) return;
    const from = PAST + expected.length, start = performance.now();
    while (expected.length < FRAMES - PAST && performance.now() - start < 8) pending();
    drawFilms(from);
    if (index() >= from) showTime();
    else drawChart();
    if (expected.length < FRAMES - PAST) idle = later(rest);
    else { nameBlocks(); speak(); }
  };
  const update = () => {
    if (idle) never(idle);
    idle = 0;
    think();
    drawStage();
    drawFilms();
    showTime();
    showTools();
    showSwitches();
    if (link) link.href = writeLink(scene);
    if (pending) idle = later(rest);
    else nameBlocks();
  };
  const take = () => { // Python, or somebody else, has set another scene
    const other = readScene(model.get('scene'), net, hands);
    if (!other || JSON.stringify(other) === JSON.stringify(readScene(scene, net, hands)) || before !== null && JSON.stringify(other) === said) return; // an echo of what the hand has left behind
    undone.push(JSON.stringify(scene));
    scene = other;
    chosen = Math.min(chosen, scene.digits.length - 1);
    refresh();
  };

  const follow = () => {
    if (!link || !location.hash.startsWith('#play=')) return;
    const other = readScene(readLink(location.hash), net, hands);
    unread = other ? '' : 'This link could not be read; the scene stays as it was. ';
    showNote();
    if (other && JSON.stringify(other) !== JSON.stringify(scene)) change(s => Object.assign(s, other));
  };
  const readExample = async () => {
    const sheet = await load(example.sheet), canvas = make('canvas', '', { width: size * 10, height: size * FRAMES / 10 }), context = canvas.getContext('2d', { willReadFrequently: true });
    context.drawImage(sheet, 0, 0);
    example.frames = [...Array(FRAMES).keys()].map(k => {
      const { data: rgba } = context.getImageData(size * (k % 10), size * Math.floor(k / 10), size, size);
      return Uint8Array.from({ length: values }, (_, d) => rgba[4 * d]);
    });
    if (!arrays) { update(); speak(); }
  };
  const wake = async () => {
    const bytes = await findWeights(model, el, digest);
    waiting = bytes ? 'ready' : 'missing';
    if (bytes) arrays = readArrays(bytes, layout);
    absent = bytes ? '' : 'The network itself is not stored here, only this example of what it does: run the cell, or open the page of this notebook in the documentation, and it follows your hand.';
    showNote();
    root.classList.toggle('lvr-awake', Boolean(bytes));
    update();
    speak();
  };

  model.on('change:index', showTime);
  model.on('change:scene', take);
  window.addEventListener('hashchange', follow);
  const unfollow = followTheme(() => { drawStage(); drawChart(); }), resize = new ResizeObserver(() => { drawStage(); drawChart(); });
  resize.observe(stage);
  resize.observe(time);
  update();
  el.lab = { latencies, time: rounds => Array.from({ length: rounds }, () => { const start = performance.now(); think(); return performance.now() - start; }), scene: () => scene, clip: () => clip.map(f => Array.from(f)), nats: () => [...recallNats, ...futureNats], frames: () => [...recalled, ...expected].map(f => Array.from(f)), ready: () => arrays !== null, done: () => frame ? 0 : recalled.length + expected.length };
  readExample().catch(() => {});
  setTimeout(() => wake().catch(error => { waiting = 'missing'; absent = `The network could not be started (${error.message}).`; showNote(); }), 0);
  return () => { stop(); clearTimeout(timer); cancelAnimationFrame(frame); if (idle) never(idle); resize.disconnect(); unfollow(); window.removeEventListener('hashchange', follow); model.off('change:index', showTime); model.off('change:scene', take); };
}

export default { render };
