// Formulas that were not made while the site was built.
for (const node of document.querySelectorAll('.formula')) {
  globalThis.katex?.render(node.textContent, node, { displayMode: node.tagName === 'DIV', throwOnError: false });
}

// Boxes that scroll sideways can be reached by keyboard.
for (const box of document.querySelectorAll('.highlight pre, .table-wrapper, .output.rich, .katex-display')) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}

// Pictures that come in light and in dark follow the theme that was chosen here, if one was.
function follow() {
  const media = { dark: 'all', light: 'not all' }[document.body.dataset.theme] ?? '(prefers-color-scheme: dark)';
  for (const source of document.querySelectorAll('picture source')) source.media = media;
}
new MutationObserver(follow).observe(document.body, { attributeFilter: ['data-theme'] });
follow();
