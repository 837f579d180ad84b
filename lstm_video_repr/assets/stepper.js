// The frame stepper. It draws frames out of sprite sheets; `index` is all that it tells the kernel, and it never waits for an answer.
// It runs in JupyterLab (through anywidget) and in any page that gives it an object with get, set, on, off and save_changes.

async function render({ model, el }) {
  const rows = model.get('rows'), count = model.get('count'), first = model.get('first'), past = model.get('past');
  const sheets = await Promise.all(rows.map(row => load(row.sheet)));
  const last = first + count - 1;
  const isPast = number => past === null || number <= past;
  const kind = number => past === null ? '' : isPast(number) ? 'past' : 'future';
  const called = (row, number) => row.notes.length && past !== null ? row.notes[isPast(number) ? 0 : 1] : row.name;

  const paint = (context, r, ...place) => paintFrame(context, rows[r], sheets[r], ...place);

  // Large frames, side by side
  const panels = rows.map(row => {
    const name = make('span', 'lvr-name', {}, row.name), note = make('span', 'lvr-note'), gap = make('span');
    const canvas = make('canvas', 'lvr-frame', { width: row.width, height: row.height, role: 'img' });
    const screen = make('div', 'lvr-screen', {}, canvas, make('div', 'lvr-gap', { 'aria-hidden': 'true' }, gap));
    return { note, gap, canvas, node: make('div', 'lvr-panel', {}, make('div', 'lvr-caption', {}, name, note), screen) };
  });

  const player = makePlayer(model, count, 'Frame'), { play, slider, speed, index, stop } = player;
  const status = make('div', 'lvr-status');

  // Film strip: one canvas per row, with a marker and a bar in the colours of past and future
  const films = rows.map(() => make('canvas', 'lvr-film'));
  const marker = make('div', 'lvr-marker'), bar = make('div', 'lvr-bar');
  const seen = past === null ? 0 : Math.max(0, Math.min(count, past - first + 1));
  if (past !== null) bar.append(make('span', 'lvr-past', { style: `width:${100 * seen / count}%` }), make('span', 'lvr-future', { style: `width:${100 - 100 * seen / count}%` }));
  const track = make('div', 'lvr-track', {}, ...films, bar, marker);
  const strip = make('div', 'lvr-strip', { 'aria-hidden': 'true' },
    make('div', 'lvr-rows', {}, ...rows.map(row => make('span', '', {}, row.name))), track);

  const title = model.get('title');
  const root = make('div', 'lvr', { role: 'group', 'aria-label': title || `Frame stepper: ${rows.map(row => row.name).join(', ')}`, 'data-lm-suppress-shortcuts': 'true' },
    ...(title ? [make('div', 'lvr-title', {}, title)] : []),
    make('div', 'lvr-panels', { style: `--lvr-wide:${Math.min(4, rows.length)};--lvr-narrow:${Math.min(2, rows.length)}` }, ...panels.map(p => p.node)),
    make('div', 'lvr-controls', {}, play, slider, speed), status, strip);
  root.style.setProperty('--lvr-seen', past === null ? '0%' : `${100 * Math.max(0, seen - .5) / Math.max(1, count - 1)}%`);
  root.classList.toggle('lvr-plain', past === null);
  el.replaceChildren(root);

  const show = () => {
    const k = index(), number = first + k, when = kind(number);
    panels.forEach(({ note, gap, canvas }, r) => {
      const context = canvas.getContext('2d');
      context.clearRect(0, 0, canvas.width, canvas.height);
      const there = paint(context, r, number, 0, 0, canvas.width, canvas.height);
      note.textContent = there && called(rows[r], number) !== rows[r].name ? called(rows[r], number) : '';
      gap.textContent = there ? '' : number < rows[r].first ? `from frame ${rows[r].first}` : `up to frame ${rows[r].first + rows[r].count - 1}`;
      canvas.classList.toggle('lvr-empty', !there);
      canvas.setAttribute('aria-label', there ? `${called(rows[r], number)}, frame ${number}` : `${rows[r].name} has no frame ${number}`);
    });
    root.dataset.when = when;
    slider.value = k;
    slider.setAttribute('aria-valuetext', `frame ${number}, the last is ${last}${when && ', ' + when}`);
    status.replaceChildren(make('b', '', {}, `Frame ${number}`), ` of ${last}`, ...(when ? [make('i', 'lvr-dot'), when === 'past' ? 'past: the model sees it' : 'future: the model guesses'] : []));
    marker.style.left = `${100 * k / count}%`;
    marker.style.width = `${100 / count}%`;
  };

  // As many small frames as fit; each stands for itself or for a few neighbours.
  const drawFilm = () => {
    const width = track.clientWidth;
    if (!width) return;
    const every = Math.ceil(count * 15 / width), cells = Math.ceil(count / every), w = width * every / count;
    films.forEach((canvas, r) => {
      const h = w * rows[r].height / rows[r].width;
      const context = fit(canvas, width, h);
      context.imageSmoothingQuality = 'high';
      for (let c = 0; c < cells; c++) paint(context, r, first + c * every, c * w + .5, .5, w - 1, h - 1);
    });
  };

  makeScrubbing(track, player, count);
  listenKeys(root, player, count);

  model.on('change:index', show);
  const resize = new ResizeObserver(drawFilm);
  resize.observe(track);
  show();
  drawFilm();
  return () => { stop(); resize.disconnect(); model.off('change:index', show); };
}

export default { render };
