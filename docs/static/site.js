// Boxes that scroll sideways can be reached by keyboard.
for (const box of document.querySelectorAll('.highlight pre, .table-wrapper, .output.rich, .katex-display')) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}
