// Search in the sections of all pages, SECTIONS: [address, page, heading, words, code], written by hooks.py.
const MOST = 40;
const field = document.getElementById('query'), list = document.getElementById('search-results');
const says = document.getElementById('search-says');
const texts = SECTIONS.map(row => row.slice(1).map(text => text.toLowerCase()));

// What is written in another way here.
const WRITTEN = [[/\blicens/g, 'licenc'], [/\bcolor/g, 'colour'], [/\bgray/g, 'grey'], [/\bnormaliz/g, 'normalis'],
  [/\bown data\b/g, 'your own']];

// A query as pieces of words, without those that say nothing; endings do not matter in long ones.
const SILENT = new Set('a an the i my of on in to for with and or is are do does how what mean means can'.split(' '));
function pieces(query) {
  const text = WRITTEN.reduce((text, [from, to]) => text.replace(from, to), query.toLowerCase());
  const words = text.split(/[^\p{L}\p{N}_]+/u).filter(Boolean);
  const telling = words.filter(w => !SILENT.has(w));
  return (telling.length ? telling : words).map(w => w.length > 5 ? w.replace(/(ations?|ing|ed|es|s)$/, '') : w);
}

// Where a word begins with a piece; -1 if none does.
const place = (text, piece) => text.search(new RegExp(`(?<![\\p{L}\\p{N}_])${piece}`, 'iu'));

// How well a section fits: how many pieces it has, then where. A heading counts most, then words, then code.
// What teaches comes before what lists, but for a public name that is asked for.
const kind = address => /^api|^changes/.test(address) ? -60 : /^index|^tutorials/.test(address) ? 20 : 0;
const isNamed = ([address, , name], query) => address.startsWith('api')
  && (query === name || /.[A-Z]/.test(name) && query === name.toLowerCase());
function fit([page, heading, words, code], wanted, bonus) {
  let sum = 0;
  for (const piece of wanted) {
    const named = place(heading, piece) >= 0;
    const value = (named ? 40 : heading.includes(piece) ? 15 : 0) + (place(page, piece) >= 0 ? 10 : 0)
      + (place(words, piece) >= 0 ? 8 + 2 * Math.min(6, words.split(piece).length - 1) : words.includes(piece) ? 4 : 0)
      + (code.includes(piece) ? 3 : 0);
    if (value) sum += 1000 + value + bonus + (heading.startsWith(piece) && page === 'glossary' ? 20 : 0);
  }
  return sum;
}

// What stands around the first find: whole words, or a line of code where no words have it.
function excerpt([, , heading, words, code], wanted) {
  const find = text => Math.min(...wanted.map(p => place(text, p)).filter(at => at >= 0));
  let at = find(words), line = find(code);
  if (at === Infinity && line < Infinity && find(heading) === Infinity)
    return ['code', code.slice(code.lastIndexOf('\n', line) + 1).split('\n')[0].trim()];
  if (at === Infinity) at = 0;
  const sentence = Math.max(...['. ', ': ', '? '].map(mark => words.lastIndexOf(mark, at) + 2));
  const start = sentence > 1 && at - sentence < 120 ? sentence : at < 120 ? 0 : words.indexOf(' ', at - 80) + 1;
  const end = start + 240 < words.length ? words.lastIndexOf(' ', start + 240) : words.length;
  return ['p', (start && start !== sentence ? '… ' : '') + words.slice(start, end) + (end < words.length ? ' …' : '')];
}

// A text with the pieces marked; never read as markup.
function marked(tag, text, wanted) {
  const node = document.createElement(tag);
  const parts = text.split(new RegExp(`(${wanted.join('|')})`, 'iu'));
  parts.forEach((part, k) => {
    if (k % 2) node.appendChild(document.createElement('mark')).textContent = part;
    else node.append(part);
  });
  return node;
}

function show(query) {
  const wanted = pieces(query);
  const ranked = texts.map((text, k) => [fit(text, wanted, isNamed(SECTIONS[k], query) ? 200 : kind(SECTIONS[k][0])), k]);
  const most = Math.floor(Math.max(0, ...ranked.map(([value]) => value)) / 1000);
  const found = ranked.filter(([value]) => most && value >= 1000 * most).sort(([a, j], [b, k]) => b - a || j - k);
  says.textContent = !wanted.length ? 'Names, words, or parts of them.' : !found.length ? `Nothing with “${query}”.`
    : `${found.length} ${found.length > 1 ? 'places' : 'place'}${found.length > MOST ? `, the first ${MOST}` : ''}`;
  list.replaceChildren(...found.slice(0, MOST).map(([, k]) => {
    const [address, page, heading] = SECTIONS[k], item = document.createElement('li');
    const link = item.appendChild(marked('a', heading, wanted));
    link.href = address;
    if (page !== heading) item.appendChild(document.createElement('small')).textContent = page;
    item.append(marked(...excerpt(SECTIONS[k], wanted), wanted));
    return item;
  }));
}

field.value = new URLSearchParams(location.search).get('q') ?? '';
field.addEventListener('input', () => show(field.value.trim()));
field.form.addEventListener('submit', event => event.preventDefault());
show(field.value.trim());

// Up and down lead from the field through the results.
field.closest('.content').addEventListener('keydown', event => {
  const stops = [field, ...list.querySelectorAll('a')], at = stops.indexOf(document.activeElement);
  const next = at < 0 ? null : stops[at + ({ ArrowDown: 1, ArrowUp: -1 }[event.key] ?? NaN)];
  if (next) { event.preventDefault(); next.focus(); }
});
