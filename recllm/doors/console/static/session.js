// Takes away what a page shows once its session is over: somebody signed out in another tab, or nothing was done for so
// long. It needs no network. A request by which a page waits by itself is no use of the session, here as on the server.
(() => {
  const idleMilliseconds = Number(document.currentScript.dataset.idleSeconds) * 1000;
  const tabs = new BroadcastChannel("recllm-session");
  let usedAt = Date.now();

  const use = () => {
    usedAt = Date.now();
    tabs.postMessage("used");
  };
  const leave = () => {
    const notice = document.getElementById("session-over");
    if (notice) document.body.replaceChildren(notice.content.cloneNode(true));
  };
  const leaveIfIdle = () => {
    if (Date.now() - usedAt > idleMilliseconds) leave();
  };

  tabs.onmessage = ({ data }) => {
    if (data === "over") leave();
    else usedAt = Date.now();
  };
  document.addEventListener("submit", ({ target }) => {
    if (target.getAttribute("action") === "/sign-out") tabs.postMessage("over");
  });
  document.addEventListener("htmx:before:request", ({ detail }) => {
    if (!detail?.ctx?.request?.headers?.["X-Waiting"]) use();
  });
  document.addEventListener("visibilitychange", leaveIfIdle); // timers stand still while a machine sleeps
  window.addEventListener("pageshow", leaveIfIdle);
  setInterval(leaveIfIdle, Math.min(5000, idleMilliseconds));
  use();
})();
