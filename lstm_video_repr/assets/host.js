// Brings steppers to life in a page without a kernel. The page holds the stepper's module as text (id lvr-module) and, inside each
// element of class lvr-host, its state as JSON. A model is then no more than that state and a list of who wants to hear of changes.
(async () => {
  const source = document.getElementById('lvr-module').textContent;
  const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
  const { default: widget } = await import(url);
  for (const el of document.querySelectorAll('.lvr-host')) {
    const state = JSON.parse(el.querySelector('script').textContent), listeners = {};
    const model = {
      get: key => state[key],
      set(key, value) {
        if (state[key] === value) return;
        state[key] = value;
        for (const listener of [...(listeners['change:' + key] ?? [])]) listener();
      },
      on: (event, listener) => (listeners[event] ??= []).push(listener),
      off: (event, listener) => { listeners[event] = (listeners[event] ?? []).filter(f => f !== listener); },
      save_changes() {},
    };
    el.model = model;
    await widget.render({ model, el });
  }
})();
