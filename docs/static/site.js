// Formulas that were not made while the site was built.
for (const node of document.querySelectorAll('.formula')) {
  globalThis.katex?.render(node.textContent, node, { displayMode: node.tagName === 'DIV', throwOnError: false });
}

// Boxes that scroll sideways can be reached by keyboard.
for (const box of document.querySelectorAll('.highlight pre, .table-wrapper, .output.rich, .katex-display')) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}
