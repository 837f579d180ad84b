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

// Dragging along `track` goes through the `count` frames that it shows, from `left` pixels on to its right end.
const makeScrubbing = (track, player, count, left = 0) => {
  const scrub = event => {
    const box = track.getBoundingClientRect();
    player.go(Math.floor((event.clientX - box.left - left) / (box.width - left) * count));
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
