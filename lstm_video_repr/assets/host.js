// Brings widgets to life in a page without a kernel. Each element of class lvr-host holds the state of a widget as JSON, and a picture with a sentence (lvr-still), which
// stay where something goes wrong. A model is then no more than that state and a list of who wants to hear of changes.
(() => {
  const bring = async el => {
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
    await lvrModules[el.dataset.kind].render({ model, el });
  };

  const fail = (el, before, error) => {
    el.replaceChildren(...before);
    el.classList.add('lvr-failed');
    const words = el.querySelector('.lvr-still p');
    if (words) words.textContent = `The widget that belongs here could not be started (${error.message}).`;
  };

  for (const el of document.querySelectorAll('.lvr-host')) {
    const before = [...el.childNodes];
    if (!el.model) bring(el).catch(error => fail(el, before, error));
  }
})();
