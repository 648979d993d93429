// What a visitor does, and a list for them; see recllm.d.ts. Nothing is sent or stored before consent(true).
(() => {
  "use strict";
  /** @type {any} */
  const script = document.currentScript;
  const service = new URL(".", script.src).href;
  const NAME = "recllm-visitor";
  let unsaved = ""; // an id without an answer yet, or that this browser does not keep
  /** @type {Promise<any>} */
  let agreed = Promise.resolve();
  let sent = agreed; // what a list has to know of
  let lists = 0;
  const before = new Map(); // box -> what stands there without a list

  const attempt = (make, otherwise) => {
    try {
      return make();
    } catch {
      return otherwise;
    }
  };

  const visitor = () => attempt(() => localStorage.getItem(NAME), "") || unsaved;

  const keep = (id) => {
    unsaved = attempt(() => {
      if (id) localStorage.setItem(NAME, id);
      else localStorage.removeItem(NAME);
      return "";
    }, id);
  };

  const post = (what, id, body) => {
    const send = () =>
      fetch(`${service}v1/page/${what}`, {
        method: "POST",
        keepalive: true, // when the page is left, too
        headers: { "Content-Type": "application/json", "X-API-Key": script.dataset.key },
        body: JSON.stringify({ visitor: id, ...body }),
      });
    return send().catch(send).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
  };

  // null without consent
  const ask = (what, body, wait = agreed) => {
    const id = visitor();
    return wait.then(() => (id && id === visitor() ? post(what, id, body) : null));
  };

  const consent = (granted) => {
    const id = visitor();
    if (granted && !id) {
      const fresh = (unsaved = `pv_${crypto.randomUUID()}`);
      agreed = post("consent", fresh, { granted }).then((answer) => {
        if (unsaved === fresh) keep(answer?.granted ? fresh : "");
      });
      return agreed.then(() => list());
    }
    if (granted || !id) return agreed;
    keep("");
    before.forEach((nodes, box) => box.replaceChildren(...nodes));
    return agreed.then(() => post("consent", id, { granted }));
  };

  const track = (event) => (lines) => {
    const events = [lines].flat().map((line) => ({
      event_id: crypto.randomUUID(), event, ...(line.item_id ? line : { item_id: line }),
    }));
    const answer = ask("events", { events });
    sent = Promise.all([sent, answer]);
    return answer.then(Boolean);
  };
  const click = track("click");

  const web = (text) =>
    attempt(() => {
      const url = new URL(text, document.baseURI);
      return text && /^https?:$/.test(url.protocol) ? url.href : "";
    }, "");

  const money = ({ price, currency }) =>
    attempt(
      () => price.toLocaleString(document.documentElement.lang || [], { style: "currency", currency }),
      `${price} ${currency || ""}`,
    );

  const element = (name, fields, ...inner) => {
    const made = Object.assign(document.createElement(name), fields);
    made.append(...inner); // texts become text
    return made;
  };

  const show = (box, { items, request_id }) => {
    const rows = items.map((item, n) => {
      const src = web(item.picture);
      const href = web(box.dataset.recllmLink?.replace("{id}", encodeURIComponent(item.item_id)));
      const whole = element(href ? "a" : "span", { href }, element("span", {}, item.title));
      if (src) whole.prepend(element("img", { alt: "", loading: "lazy", src }));
      if (item.price !== null) whole.append(element("b", {}, money(item)));
      whole.onclick = () => click({ item_id: item.item_id, request_id, position: n + 1 });
      return element("li", {}, whole);
    });
    if (!before.has(box)) before.set(box, [...box.childNodes]);
    box.replaceChildren(element("ul", {}, ...rows));
  };

  const list = async (basket = []) => {
    const turn = ++lists;
    /** @type {any} */
    const boxes = document.querySelectorAll("[data-recllm-list]");
    for (const box of boxes) {
      const id = visitor();
      const answer = await ask("list", { k: +box.dataset.recllmList || 6, basket }, sent);
      if (turn === lists && id === visitor() && answer?.items.length) show(box, answer);
    }
  };

  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    :where([data-recllm-list] ul) { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr));
      gap: 1rem; list-style: none; margin: 0; padding: 0 }
    :where([data-recllm-list] li > *) { display: grid; gap: .25rem; color: inherit; overflow-wrap: anywhere }
    :where([data-recllm-list] img) { width: 100%; aspect-ratio: 1; object-fit: cover }`);
  document.adoptedStyleSheets.push(sheet); // `:where` yields to every rule of the shop

  const [view, cart, purchase] = ["view", "cart", "purchase"].map(track);
  window.recllm = Object.freeze({ consent, visitor, view, click, cart, purchase, list });
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => list());
  else list();
})();
