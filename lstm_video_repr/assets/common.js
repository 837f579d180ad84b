// What the widgets of this package share. It is put in front of each widget's own module.

const make = (tag, className, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

const load = src => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = () => failed(new Error('a sprite sheet could not be read'));
  image.src = src;
});

// Copy frame `number` of a row out of its sheet into a canvas rectangle; false where the row has no such frame.
const paintFrame = (context, row, sheet, number, x, y, w, h) => {
  const k = number - row.first;
  if (k < 0 || k >= row.count) return false;
  const sx = (k % row.columns) * row.width, sy = Math.floor(k / row.columns) * row.height;
  context.drawImage(sheet, sx, sy, row.width, row.height, x, y, w, h);
  return true;
};

// Play button, slider and speed for the model's `index`, which goes from 0 to count - 1.
const makePlayer = (model, count, label) => {
  const play = make('button', 'lvr-button', { type: 'button' });
  const slider = make('input', 'lvr-slider', { type: 'range', min: 0, max: count - 1, step: 1, 'aria-label': label });
  const speed = make('select', 'lvr-speed', { 'aria-label': 'Speed' });
  for (const [value, text] of [[.25, '¼×'], [.5, '½×'], [1, '1×'], [2, '2×'], [4, '4×']]) speed.append(make('option', '', { value }, text));
  speed.value = '1';

  const within = k => Math.max(0, Math.min(count - 1, Math.round(Number(k)) || 0)); // whatever somebody has set
  const index = () => within(model.get('index'));
  const rate = () => { const fps = Number(model.get('fps')); return (fps > 0 && fps <= 60 ? fps : 5) * Number(speed.value); };
  const go = k => {
    k = within(k);
    if (k === index()) return;
    model.set('index', k);
    model.save_changes();
  };

  let timer = null;
  const drawButton = () => {
    play.classList.toggle('lvr-playing', timer !== null);
    play.setAttribute('aria-label', timer === null ? 'Play' : 'Pause');
    play.title = timer === null ? 'Play (space)' : 'Pause (space)';
  };
  const stop = () => { clearInterval(timer); timer = null; drawButton(); };
  const start = () => {
    clearInterval(timer);
    timer = setInterval(() => go((index() + 1) % count), 1000 / rate());
    drawButton();
  };
  const toggle = () => { if (timer === null) start(); else stop(); };

  play.addEventListener('click', toggle);
  speed.addEventListener('change', () => { if (timer !== null) start(); });
  slider.addEventListener('input', () => { stop(); go(Number(slider.value)); });
  drawButton();
  return { play, slider, speed, index, go, stop, toggle };
};

// Dragging along `track` goes through the `count` frames that it shows, from `left` pixels on to its right end; `place` says which one lies at what part of the way.
const makeScrubbing = (track, player, count, left = 0, place = part => Math.floor(part * count)) => {
  const scrub = event => {
    const box = track.getBoundingClientRect();
    player.go(place((event.clientX - box.left - left) / (box.width - left)));
  };
  track.addEventListener('pointerdown', event => {
    player.stop();
    track.setPointerCapture(event.pointerId);
    scrub(event);
    player.slider.focus({ preventScroll: true });
    event.preventDefault();
  });
  track.addEventListener('pointermove', event => { if (track.hasPointerCapture(event.pointerId)) scrub(event); });
};

// Keys that lead through time, wherever in a widget they are pressed, and what `more` keys do.
const listenKeys = (root, player, count, more = {}) => root.addEventListener('keydown', event => {
  const { index, go, stop, toggle, speed } = player;
  if (event.target === speed || event.altKey || event.ctrlKey || event.metaKey) return;
  const jump = { ArrowRight: index() + 1, ArrowUp: index() + 1, ArrowLeft: index() - 1, ArrowDown: index() - 1, PageUp: index() + 10, PageDown: index() - 10, Home: 0, End: count - 1 }[event.key];
  if (jump !== undefined) { stop(); go(jump); }
  else if (event.key === ' ' && event.target.tagName !== 'BUTTON') toggle();
  else if (more[event.key]) more[event.key]();
  else return;
  event.preventDefault();
  event.stopPropagation();
});

// A canvas of w x h pixels of the page, as sharp as the screen is.
const fit = (canvas, w, h) => {
  const ratio = window.devicePixelRatio || 1, context = canvas.getContext('2d');
  canvas.width = Math.round(w * ratio);
  canvas.height = Math.round(h * ratio);
  canvas.style.height = `${h}px`;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
};

// Sites and notebooks with a switch of their own for light and dark say so in attributes. Returns what ends the listening.
const followTheme = redraw => {
  const scheme = window.matchMedia('(prefers-color-scheme: dark)'), theme = new MutationObserver(redraw);
  for (const node of [document.documentElement, document.body]) theme.observe(node, { attributes: true, attributeFilter: ['class', 'style', 'data-theme', 'data-jp-theme-light', 'data-jp-theme-name'] });
  scheme.addEventListener('change', redraw);
  return () => { theme.disconnect(); scheme.removeEventListener('change', redraw); };
};
