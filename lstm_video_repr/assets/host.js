// Brings widgets to life in a page without a kernel. The page holds the module of each kind of widget as text (class lvr-module) and, inside
// each element of class lvr-host, its state as JSON. A model is then no more than that state and a list of who wants to hear of changes.
(async () => {
  const modules = {};
  for (const text of document.querySelectorAll('.lvr-module')) {
    const url = URL.createObjectURL(new Blob([text.textContent], { type: 'text/javascript' }));
    modules[text.dataset.kind] = (await import(url)).default;
  }
  for (const el of document.querySelectorAll('.lvr-host')) {
    const state = JSON.parse(el.querySelector('script').textContent), listeners = {};
    const heard = event => listeners[event] ??= new Set();
    const model = {
      get: key => state[key],
      set(key, value) {
        if (state[key] === value) return;
        state[key] = value;
        for (const listener of [...heard('change:' + key)]) listener();
      },
      on: (event, listener) => heard(event).add(listener),
      off: (event, listener) => heard(event).delete(listener),
      save_changes() {},
    };
    el.model = model;
    await modules[el.dataset.kind].render({ model, el });
  }
})();
