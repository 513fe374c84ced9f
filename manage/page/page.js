// The page of the Manage Server: ask models, follow tasks, see workers and usage.
//
// Whatever comes from a model, a worker or a user is shown as text and is never markup: elements
// are made by `make`, which knows nothing but text. The page keeps the token, the conversations and
// the place in a stream in sessionStorage, so they last as long as the tab and survive a reload.

// ---------------------------------------------------------------- Settings

const KEEP_ALIVE_SECONDS = 10; // The server writes to a stream at least this often.
const SILENT_SECONDS = 3 * KEEP_ALIVE_SECONDS;
const REQUEST_SECONDS = 30;
const FIRST_PAUSE_SECONDS = 1;
const LONGEST_PAUSE_SECONDS = 30;
const BUSY_REFRESH_SECONDS = 3;
const IDLE_REFRESH_SECONDS = 15;
const COMPLAINT_SECONDS = 10;
const SAVE_SECONDS = 2;
const BLOCK_CHARS = 8000; // A browser lays out a block again for each character added to it.
const PAINTED_CHARS = 40000; // At once, so that the page answers its user in between.
const ANNOUNCED_CHARS = 300;
const SUMMARY_CHARS = 200; // The server cuts summaries here.
const TASKS_A_PAGE = 50;
const MAX_NAMES_SHOWN = 30; // Of the models of a worker.
const FINAL_STATES = new Set(["completed", "failed", "cancelled", "gone"]);

// ---------------------------------------------------------------- Small things

const byId = (id) => document.getElementById(id);
const base = new URL(".", document.baseURI);
const numbers = new Intl.NumberFormat("en");
const shortNumbers = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** Make an element. `fields` are its properties; children that are strings become text. */
function make(tag, fields = {}, ...children) {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...children);
  return element;
}

/** Set a text only if it differs, so that selections and screen readers are left alone. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Control characters as the symbols that Unicode has for them. */
function visible(text) {
  return text.replace(/\r/g, "").replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g, (char) =>
    char === "\x7f" ? "\u2421" : String.fromCharCode(0x2400 + char.charCodeAt(0)));
}

/** A duration in its largest unit. */
function roughly(seconds) {
  if (seconds < 59.5) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 59.5 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

function exactly(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${numbers.format(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

const countOf = (count, noun) => `${numbers.format(count)} ${noun}${count === 1 ? "" : "s"}`;
/** How long a task will take, if that is known. 0 is for one that takes longer than usual. */
const timeLeft = (seconds) => (seconds > 0 ? `about ${roughly(seconds)} left` : "");
const secondsSince = (time) => Math.max(0, (Date.now() - Date.parse(time)) / 1000);
const pauseAfter = (failures) =>
  Math.min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (failures - 1));

function announce(text) {
  byId("announcement").textContent = text;
}

// What ends a pause early: the network is back, the phone wakes up, the user says so.
const waking = new EventTarget();
const wake = () => waking.dispatchEvent(new Event("wake"));

/** Wait for some seconds, or until something wakes the page; fails if `signal` aborts. */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const end = (settle) => () => {
      clearTimeout(timer);
      waking.removeEventListener("wake", onWake);
      signal?.removeEventListener("abort", onAbort);
      settle();
    };
    const onWake = end(resolve);
    const onAbort = end(() => reject(signal.reason));
    const timer = setTimeout(onWake, seconds * 1000);
    waking.addEventListener("wake", onWake);
    signal?.addEventListener("abort", onAbort);
    if (signal?.aborted) onAbort();
  });
}

// ---------------------------------------------------------------- What the tab remembers

const memory = {
  get: (key) => sessionStorage.getItem(`llm-tasks:${key}`),
  set: (key, text) => sessionStorage.setItem(`llm-tasks:${key}`, text),
  remove: (key) => sessionStorage.removeItem(`llm-tasks:${key}`),
  keys: () => Object.keys(sessionStorage)
    .filter((key) => key.startsWith("llm-tasks:")).map((key) => key.slice("llm-tasks:".length)),
};

// ---------------------------------------------------------------- The server

/** The server cannot be reached, or something in between answered. */
class Unreachable extends Error {}

/** The server's own error. */
class Refused extends Error {
  constructor(status, sentence, retryAfterSeconds) {
    super(sentence);
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

const isTemporary = (error) => error instanceof Unreachable
  || (error instanceof Refused && (error.status >= 500 || error.status === 429));

let token = memory.get("token") || "";

/** Send a request and return the response; asks for a token where the server wants another. */
async function send(method, path, { json, headers = {}, signal, isStream = false } = {}) {
  for (;;) {
    const sentToken = token;
    const response = await sendOnce(method, path, sentToken, { json, headers, signal, isStream });
    if (response.ok) return response;
    const error = await errorOf(response);
    const isWrongKind = error.status === 403 && sentToken
      && error.message.includes("kind of token");
    if (error.status !== 401 && !isWrongKind) throw error;
    await askForToken(sentToken, sentToken ? error.message : "");
    if (signal?.aborted) throw signal.reason;
  }
}

async function sendOnce(method, path, bearer, { json, headers = {}, signal, isStream = false }) {
  const controller = new AbortController();
  const abort = () => controller.abort(signal.reason);
  const timer = setTimeout(() => controller.abort(), REQUEST_SECONDS * 1000);
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();
  try {
    const response = await fetch(new URL(path, base), {
      method, signal: controller.signal, cache: "no-store",
      headers: {
        ...headers,
        ...(bearer ? { Authorization: `Bearer ${bearer}` } : {}),
        ...(json === undefined ? {} : { "Content-Type": "application/json" }),
      },
      body: json === undefined ? undefined : JSON.stringify(json),
    });
    if (!response.headers.has("Llm-Tasks")) {
      throw new Unreachable(`Something between this page and the server answered with status ${
        response.status}.`);
    }
    return response;
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw error instanceof Unreachable ? error : new Unreachable("The server cannot be reached.");
  } finally {
    clearTimeout(timer);
    // The signal of a stream ends its body as well.
    if (!isStream) signal?.removeEventListener("abort", abort);
  }
}

async function errorOf(response) {
  const body = await response.json().catch(() => ({}));
  const sentence = typeof body.error === "string" ? body.error : `Status ${response.status}.`;
  return new Refused(response.status, sentence, Number(response.headers.get("Retry-After")) || 0);
}

async function getJson(path) {
  const response = await send("GET", path);
  try {
    return await response.json();
  } catch {
    throw new Unreachable("The connection broke off.");
  }
}

// ---------------------------------------------------------------- The token

let tokenAnswer = null;

/** Ask for another token than the rejected one; all requests that need it wait for one answer. */
function askForToken(rejected, sentence) {
  if (rejected !== token) return Promise.resolve();
  if (tokenAnswer) return tokenAnswer;
  tokenAnswer = new Promise((resolve) => {
    const dialog = byId("token-dialog");
    setText(byId("token-error"), sentence);
    byId("token").value = "";
    dialog.showModal();
    // Some browsers close a dialog at the second Escape, whatever the page says.
    dialog.onclose = () => tokenAnswer && dialog.showModal();
    byId("token-form").onsubmit = async (event) => {
      event.preventDefault();
      const candidate = byId("token").value.trim();
      const problem = await problemOfToken(candidate);
      if (problem) {
        setText(byId("token-error"), problem);
        byId("token").select();
        return;
      }
      token = candidate;
      memory.set("token", token);
      byId("sign-out").hidden = false;
      tokenAnswer = null;
      dialog.close();
      resolve();
    };
  });
  return tokenAnswer;
}

/** Why the server does not take this token; empty if it does. */
async function problemOfToken(candidate) {
  if (!/^[\x21-\x7e]+$/.test(candidate)) {
    return "A token has only letters, digits and signs of ASCII.";
  }
  try {
    const response = await sendOnce("GET", "api/tags", candidate, {});
    return response.ok ? "" : (await errorOf(response)).message;
  } catch (error) {
    return `${error.message} Try again in a moment.`;
  }
}

function forgetToken() {
  memory.keys().forEach(memory.remove);
  following?.abort();
  current = null; // Otherwise leaving the page saves the conversation again.
  location.reload();
}

// ---------------------------------------------------------------- Trouble

const troubles = new Map();

/** Say what is wrong with the connection; without a text, that it works again. */
function setTrouble(source, text = "") {
  if (text) troubles.set(source, text);
  else troubles.delete(source);
  const [first = ""] = troubles.values();
  setText(byId("connection-text"), first);
  byId("connection").hidden = !first;
}

/** Say for a moment why something that the user asked for did not happen. */
function complain(error) {
  setTrouble("action", error.message);
  setTimeout(() => setTrouble("action"), COMPLAINT_SECONDS * 1000);
}

const describeTrouble = (error, seconds) =>
  `${error.message} Trying again in ${countOf(Math.round(seconds), "second")}.`;

// ---------------------------------------------------------------- Text of a model

/** Whoever reads the end of the conversation stays there: while the answer grows, when a phone is
 * turned, and when its keyboard opens. */
const reading = {
  isAtEnd: true,
  size: "",

  onScroll() {
    const { scrollHeight, scrollTop, clientHeight, clientWidth } = byId("conversation");
    // With a new size, it is the browser that scrolls, and not the reader.
    if (this.size !== `${clientWidth} ${clientHeight}`) return;
    this.isAtEnd = scrollHeight - scrollTop - clientHeight < 60;
  },

  onResize() {
    const { clientHeight, clientWidth } = byId("conversation");
    this.size = `${clientWidth} ${clientHeight}`;
    this.stay();
  },

  stay() {
    const region = byId("conversation");
    if (this.isAtEnd) region.scrollTop = region.scrollHeight;
  },

  goToEnd() {
    this.isAtEnd = true;
    this.stay();
  },
};

const painter = {
  views: new Set(),
  isScheduled: false,

  add(view) {
    this.views.add(view);
    if (this.isScheduled) return;
    this.isScheduled = true;
    requestAnimationFrame(() => this.paint());
  },

  paint() {
    const startedAt = performance.now();
    const views = [...this.views];
    this.views.clear();
    views.forEach((view) => view.flush());
    reading.stay(); // The browser lays out what is new, which takes its time.
    // Where painting is slow, it leaves most of the time to everything else.
    const rest = 2 * (performance.now() - startedAt);
    setTimeout(() => {
      this.isScheduled = false;
      if (this.views.size) this.add(this.views.values().next().value);
    }, rest);
  },
};

/** A growing text, in blocks: paragraphs, and code between ``` fences. */
class TextView {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.pending = this.out = ""; // Not shown at all yet; not in its block yet.
    this.rest = ""; // The beginning of a line that may become a fence.
    this.isWhole = false;
    this.isLineStart = true;
    this.fence = 0; // Length of the fence that opened the code; 0 outside of code.
    this.endBlock();
  }

  append(text) {
    this.pending += text;
    painter.add(this);
  }

  /** Nothing will follow. */
  end() {
    this.isWhole = true;
    painter.add(this);
  }

  /** Show what has been appended. */
  flush() {
    const text = this.rest + visible(this.pending.slice(0, PAINTED_CHARS));
    this.pending = this.pending.slice(PAINTED_CHARS);
    this.rest = "";
    const isWhole = this.isWhole && !this.pending;
    for (let at = 0; at < text.length;) {
      const newline = text.indexOf("\n", at);
      const end = newline < 0 ? text.length : newline + 1;
      if (!this.isLineStart) this.write(text.slice(at, end));
      else if (newline < 0 && !isWhole && /^ {0,3}(`{0,2}|`{3,}[^`]{0,99})$/.test(text.slice(at))) {
        this.rest = text.slice(at);
        break;
      } else this.writeLine(text.slice(at, end));
      this.isLineStart = newline >= 0;
      at = end;
    }
    this.emit();
    if (this.pending) painter.add(this);
  }

  writeLine(line) {
    const fence = /^ {0,3}(`{3,})([^`\n]*)\n?$/.exec(line);
    if (fence && !this.fence) {
      this.fence = fence[1].length;
      this.startCode(fence[2].trim());
    } else if (fence && fence[1].length >= this.fence && !fence[2].trim()) {
      this.fence = 0;
      this.endBlock();
    } else if (line === "\n" && !this.fence) this.endBlock();
    else this.write(line);
  }

  startCode(language) {
    this.endBlock();
    this.code = make("pre", { tabIndex: 0 });
    this.code.setAttribute("aria-label", language ? `Code: ${language}` : "Code");
    this.code.setAttribute("role", "region");
    this.element.append(this.code);
  }

  write(text) {
    let left = text;
    while (left) {
      if (this.blockChars >= BLOCK_CHARS && this.isLineStart) this.continueBlock();
      const room = 2 * BLOCK_CHARS - this.blockChars;
      let cut = Math.min(left.length, room);
      // Not between the halves of a character.
      if (cut < left.length && /[\ud800-\udbff]/.test(left[cut - 1])) cut += 1;
      this.out += left.slice(0, cut);
      this.blockChars += cut;
      left = left.slice(cut);
      if (left) this.continueBlock();
    }
  }

  /** Go on in a new block that looks like the same one. */
  continueBlock() {
    const code = this.code;
    this.emit();
    this.node?.parentElement.classList.add("continued");
    this.endBlock();
    this.code = code;
  }

  endBlock() {
    this.emit();
    this.node = this.code = null;
    this.blockChars = 0;
  }

  emit() {
    if (!this.out) return;
    if (!this.node) {
      this.node = document.createTextNode("");
      const block = make(this.code ? "code" : "p", this.code ? {} : { dir: "auto" }, this.node);
      (this.code || this.element).append(block);
    }
    this.node.appendData(this.out);
    this.out = "";
  }
}

/** What a user wrote, which is there as a whole. */
function showWhole(element, text) {
  const view = new TextView(element);
  view.pending = text;
  view.isWhole = true;
  view.flush();
}

// ---------------------------------------------------------------- Conversations
//
// A conversation has an id, its turns, and `isForeign` if only a task of it is known, which was
// submitted elsewhere. A turn of the user has `text`. An answer has the fields of `newAnswer`.

let current = newConversation();
let following = null; // Ends the stream of the conversation that is shown.
const known = new Map(); // Conversations by id: each is one object, also while it is not shown.
const views = new WeakMap(); // What shows an answer, by answer.
const submitting = new Map(); // Promises by key.

function randomName() {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function newConversation() {
  return { id: randomName(), isForeign: false, turns: [] };
}

function newAnswer(fields) {
  return {
    role: "assistant", state: "unsent", key: randomName(), taskId: null, model: null, text: "",
    thinking: "", lastEventId: "", error: "", metrics: {}, attempt: 0, place: null, ...fields,
  };
}

/** The key keeps the server from taking another task with the same id for this answer's: tasks in
 * memory are numbered from 1 again after a restart. It is not known of tasks of other tabs. */
const headersOf = ({ key }) => (key ? { "Idempotency-Key": key } : {});

const isFinal = (answer) => FINAL_STATES.has(answer.state);
const lastAnswer = () => current.turns[current.turns.length - 1];
const isAnswering = () => current.turns.length > 0 && !isFinal(lastAnswer());

function save(conversation) {
  if (!conversation.turns.length) return;
  const key = `conversation:${conversation.id}`;
  const others = memory.keys().filter((name) => name.startsWith("conversation:") && name !== key);
  const whole = JSON.stringify(conversation);
  // Where a tab may not keep so much, the answers of this conversation come from the server again.
  const slim = JSON.stringify({ ...conversation, turns: conversation.turns.map(withoutText) });
  for (const text of [whole, ...others.map(() => whole), slim]) {
    try {
      memory.set(key, text);
      return;
    } catch {
      const oldest = others.shift();
      if (oldest) memory.remove(oldest);
    }
  }
}

function withoutText(turn) {
  if (turn.role === "user" || !turn.taskId) return turn;
  return { ...turn, state: "queued", text: "", thinking: "", lastEventId: "" };
}

function load(id) {
  if (known.has(id)) return known.get(id);
  const conversation = JSON.parse(memory.get(`conversation:${id}`) || "null");
  if (conversation) known.set(id, conversation);
  return conversation;
}

const allConversations = () => [...new Set([...known.keys(), ...memory.keys()
  .filter((key) => key.startsWith("conversation:")).map((key) => key.slice("conversation:".length)),
])].map(load);

/** Show a conversation, and go on with what is unfinished in it. */
function show(conversation) {
  following?.abort(new Error("Another conversation is shown."));
  following = null;
  if (current !== conversation) save(current);
  current = conversation;
  known.set(conversation.id, conversation);
  memory.set("current", conversation.id);
  byId("turns").replaceChildren(...conversation.turns.map(showTurn));
  byId("empty").hidden = conversation.turns.length > 0;
  reading.goToEnd();
  showNote();
  showBusy();
  conversation.turns.filter((turn) => turn.role === "assistant" && !isFinal(turn)).forEach(run);
  showTasks();
}

function showNote() {
  byId("composer-note").hidden = !current.isForeign;
  setText(byId("composer-note"), current.isForeign
    ? "This task was submitted elsewhere. A prompt starts a new chat." : "");
}

/** Say which of Send and Stop can be used; the focus stays in the form. */
function showBusy() {
  const isBusy = isAnswering();
  const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
  if (hadFocus) byId("prompt").focus();
}

// ---------------------------------------------------------------- A turn

function showTurn(turn) {
  return turn.role === "user" ? showQuestion(turn) : new AnswerView(turn).element;
}

function showQuestion(turn) {
  const text = make("div", { className: "text" });
  showWhole(text, turn.text);
  return make("article", { className: "turn question" },
    make("h3", { className: "unseen", textContent: "You" }), text);
}

class AnswerView {
  constructor(answer) {
    this.answer = answer;
    this.name = make("h3", { dir: "auto" });
    this.summary = make("summary");
    this.thinkingText = make("div", { className: "text thoughts" });
    this.thinkingBox = make("details", { className: "thinking", hidden: true },
      this.summary, this.thinkingText);
    this.answerText = make("div", { className: "text reply" });
    this.status = make("p", { className: "status", dir: "auto" });
    this.actions = make("div", { className: "actions" });
    this.element = make("article", { className: "turn answer" },
      this.name, this.thinkingBox, this.answerText, this.status, this.actions);
    this.thinking = new TextView(this.thinkingText);
    this.text = new TextView(this.answerText);
    views.set(answer, this);
    this.thinking.append(answer.thinking);
    this.text.append(answer.text);
    if (isFinal(answer)) this.finish();
    this.update();
  }

  clear() {
    this.thinking.clear();
    this.text.clear();
  }

  finish() {
    this.thinking.end();
    this.text.end();
  }

  update() {
    const answer = this.answer;
    setText(this.name, answer.model || "Answer");
    this.thinkingBox.hidden = !answer.thinking;
    setText(this.summary, answer.text || isFinal(answer) ? "Thinking" : "Thinking…");
    this.element.dataset.state = answer.state;
    this.element.setAttribute("aria-busy", String(!isFinal(answer)));
    setText(this.status, describeState(answer));
    this.updateActions();
  }

  updateActions() {
    const answer = this.answer;
    const wanted = [];
    // Browsers offer the clipboard to pages with TLS and to localhost only.
    if (isFinal(answer) && answer.text && navigator.clipboard) wanted.push(["Copy", this.copy]);
    if (["failed", "cancelled", "gone"].includes(answer.state) && answer === lastAnswer()
      && !current.isForeign) wanted.push(["Try again", () => tryAgain(answer)]);
    const names = wanted.map(([name]) => name).join();
    if (this.actionNames === names) return;
    this.actionNames = names;
    this.actions.replaceChildren(...wanted.map(([name, onclick]) =>
      make("button", { type: "button", className: "quiet", name, onclick }, name)));
  }

  copy = async () => {
    await navigator.clipboard.writeText(this.answer.text);
    announce("The answer is in the clipboard.");
  };
}

function describeState(answer) {
  const { metrics } = answer;
  switch (answer.state) {
    case "unsent": return "Sending…";
    case "queued": return describePlace(answer.place || {});
    case "running": return describeRunning(answer);
    case "completed": return [
      metrics.eval_count && countOf(metrics.eval_count, "token"),
      metrics.eval_count && metrics.eval_duration
        && `${(metrics.eval_count / metrics.eval_duration * 1e9).toFixed(1)} tokens/s`,
      metrics.total_duration && roughly(metrics.total_duration / 1e9),
      metrics.done_reason === "length" && "cut off at the model's limit",
    ].filter(Boolean).join(" · ") || "Completed";
    case "cancelled": return "Stopped";
    default: return answer.error || "Failed";
  }
}

function describePlace({ queue_position: position, waiting_for: waitingFor, eta_seconds: eta }) {
  return [
    position ? `Place ${numbers.format(position)} in the queue` : "In the queue",
    waitingFor && `waiting for ${waitingFor}`,
    timeLeft(eta),
  ].filter(Boolean).join(" · ");
}

function describeRunning(answer) {
  const attempt = answer.attempt > 1 ? ` (attempt ${answer.attempt})` : "";
  if (!answer.text) {
    return `${answer.thinking ? "Thinking" : "Waiting for the first words"}${attempt}`;
  }
  const { chars, startedAt } = answer.pace || {};
  const seconds = (performance.now() - startedAt) / 1000;
  // A token has about four characters; the exact figure comes with the end.
  if (!(seconds > 1)) return `Writing${attempt}`;
  return `Writing${attempt} · about ${countOf(Math.ceil(chars / 4 / seconds), "token")}/s`;
}

// ---------------------------------------------------------------- Asking

function ask(text) {
  if (current.isForeign) show(newConversation());
  const answer = newAnswer({});
  current.turns.push({ role: "user", text }, answer);
  showNew(current.turns.slice(-2), answer);
}

function tryAgain(answer) {
  const again = newAnswer({ model: answer.model });
  current.turns[current.turns.indexOf(answer)] = again;
  views.get(answer).element.remove();
  showNew([again], again);
  byId("prompt").focus();
}

function showNew(turns, answer) {
  byId("empty").hidden = true;
  byId("turns").append(...turns.map(showTurn));
  reading.goToEnd();
  known.set(current.id, current);
  // Whatever happens now, a reload sends the same request with the same key: it counts once.
  save(current);
  announce("Sent.");
  run(answer);
}

/** Submit the answer's task if that is left to do, and follow it to its end. */
async function run(answer) {
  const conversation = current;
  following = following || new AbortController();
  const { signal } = following;
  showBusy();
  try {
    await submit(conversation, answer);
    if (!isFinal(answer)) await follow(conversation, answer, signal);
  } catch (error) {
    if (!signal.aborted) finish(conversation, answer, "failed", error.message);
  }
}

function submit(conversation, answer) {
  if (answer.state !== "unsent") return Promise.resolve();
  if (!submitting.has(answer.key)) {
    submitting.set(answer.key, submitUntilDone(conversation, answer)
      .finally(() => submitting.delete(answer.key)));
  }
  return submitting.get(answer.key);
}

async function submitUntilDone(conversation, answer) {
  const messages = messagesBefore(conversation, answer);
  if (answer.model === null) {
    await modelsListed; // Somebody may type faster than the list comes.
    answer.model = byId("model").value;
    save(conversation); // The request must stay the same from now on.
    views.get(answer)?.update();
  }
  for (let failures = 1; ; failures++) {
    try {
      const response = await send("POST", "submit", {
        json: { messages, ...(answer.model ? { model: answer.model } : {}) },
        headers: headersOf(answer),
      });
      answer.taskId = (await response.json()).task_id;
      answer.state = "queued";
      break;
    } catch (error) {
      if (error instanceof Refused && !isTemporary(error)) throw error;
      if (answer.isStopped) return finish(conversation, answer, "cancelled");
      const seconds = Math.max(pauseAfter(failures), error.retryAfterSeconds || 0);
      setTrouble("submit", describeTrouble(error, seconds));
      await pause(seconds);
      if (answer.isStopped) return finish(conversation, answer, "cancelled");
    } finally {
      if (answer.state !== "unsent") setTrouble("submit");
    }
  }
  save(conversation);
  views.get(answer)?.update();
  refreshNow();
  if (answer.isStopped) await cancelTask(answer.taskId, headersOf(answer));
}

function messagesBefore(conversation, answer) {
  return conversation.turns.slice(0, conversation.turns.indexOf(answer))
    .filter((turn) => turn.text)
    .map((turn) => ({ role: turn.role, content: turn.text }));
}

async function stop() {
  const answer = lastAnswer();
  if (!answer || isFinal(answer)) return;
  answer.isStopped = true;
  announce("Stopping.");
  if (!answer.taskId) return wake();
  try {
    await cancelTask(answer.taskId, headersOf(answer));
  } catch (error) {
    complain(error);
  }
}

/** Cancel a task; one that ends in the same moment keeps its answer. */
async function cancelTask(taskId, headers = {}) {
  try {
    await send("DELETE", `result/${taskId}?only=cancel`, { headers });
  } catch (error) {
    if (!(error instanceof Refused && error.status === 409)) throw error;
  }
  refreshNow();
}

function finish(conversation, answer, state, error = "") {
  Object.assign(answer, { state, error, place: null });
  delete answer.pace;
  const view = views.get(answer);
  view?.finish();
  view?.update();
  setTrouble("submit");
  save(conversation);
  if (conversation !== current) return;
  setTrouble("stream");
  showBusy();
  announceEnd(answer);
  refreshNow();
}

function announceEnd(answer) {
  const beginning = answer.text.slice(0, ANNOUNCED_CHARS);
  const more = answer.text.length > ANNOUNCED_CHARS ? "… The rest is on the page." : "";
  announce(answer.state === "completed" ? `The answer is complete: ${beginning}${more}`
    : answer.state === "cancelled" ? "Stopped." : describeState(answer));
}

// ---------------------------------------------------------------- Following a task

/** Read the stream of a task to its end, through lost connections and restarts of the server. */
async function follow(conversation, answer, signal) {
  for (let failures = 0; !isFinal(answer);) {
    let seconds = FIRST_PAUSE_SECONDS;
    try {
      const connected = () => {
        failures = 0;
        setTrouble("stream");
        if (troubles.has("refresh")) refreshNow();
      };
      seconds = await readStream(conversation, answer, signal, connected);
    } catch (error) {
      if (signal.aborted) throw error;
      if (error instanceof Refused && !isTemporary(error)) {
        return endWithout(conversation, answer, error, signal);
      }
      seconds = Math.max(pauseAfter(++failures), error.retryAfterSeconds || 0);
      setTrouble("stream", describeTrouble(error, seconds));
    }
    if (!isFinal(answer)) await pause(seconds, signal);
  }
}

/** What to do about a task that has no stream. */
async function endWithout(conversation, answer, error, signal) {
  if (error.status === 404) {
    return finish(conversation, answer, "gone", "The server no longer has this task.");
  }
  if (error.status !== 409) throw error;
  // A request to one of Ollama's own endpoints: its answer is shown as it is, once it is complete.
  const response = await send("GET", `result/${answer.taskId}?wait=20`,
    { headers: headersOf(answer) });
  const result = await response.json();
  if (response.status === 202) {
    answer.state = result.state;
    answer.place = result;
  } else {
    answer.text = result.result || result.text || "";
    views.get(answer)?.text.append(answer.text);
    const ending = result.status === "Failed." ? "failed" : "cancelled";
    finish(conversation, answer, "result" in result ? "completed" : ending, result.error);
  }
  views.get(answer)?.update();
  return isFinal(answer) ? undefined : follow(conversation, answer, signal);
}

/** Read one response of the stream; return the seconds to wait before asking for the rest. */
async function readStream(conversation, answer, signal, onConnected) {
  const controller = new AbortController();
  const abort = () => controller.abort(signal.reason);
  let lastByteAt = Date.now();
  const isSilent = (seconds) => Date.now() - lastByteAt > seconds * 1000;
  const hangUp = () => controller.abort();
  const check = () => isSilent(SILENT_SECONDS) && hangUp();
  // A phone that slept does not know that its connection is dead.
  const onWake = () => isSilent(1.5 * KEEP_ALIVE_SECONDS) && hangUp();
  const timer = setInterval(check, 1000);
  signal.addEventListener("abort", abort);
  waking.addEventListener("wake", onWake);
  window.addEventListener("online", hangUp);
  try {
    const headers = {
      ...headersOf(answer), ...(answer.lastEventId ? { "Last-Event-ID": answer.lastEventId } : {}),
    };
    const response = await send("GET", `result/${answer.taskId}/stream`,
      { headers, signal: controller.signal, isStream: true });
    onConnected();
    const events = new EventReader((...event) => onEvent(conversation, answer, ...event));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || isFinal(answer)) return events.retrySeconds;
      lastByteAt = Date.now();
      events.read(value);
      if (isFinal(answer)) hangUp();
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (isFinal(answer)) return 0;
    if (error instanceof Refused) throw error;
    throw new Unreachable("The connection to the server was lost.");
  } finally {
    clearInterval(timer);
    signal.removeEventListener("abort", abort);
    waking.removeEventListener("wake", onWake);
    window.removeEventListener("online", hangUp);
  }
}

/** Server-sent events, as the HTML standard has them; `onEvent` gets name, data and id. */
class EventReader {
  constructor(onEvent) {
    this.onEvent = onEvent;
    this.retrySeconds = FIRST_PAUSE_SECONDS;
    this.parts = []; // Of a line that is not complete.
    this.event = { name: "", data: "", id: "" };
  }

  read(text) {
    const lines = text.split("\n");
    if (lines.length === 1) return this.parts.push(text);
    lines[0] = this.parts.join("") + lines[0];
    this.parts = [lines.pop()];
    return lines.forEach((line) => this.readLine(line.replace(/\r$/, "")));
  }

  readLine(line) {
    if (!line) {
      const { name, data, id } = this.event;
      this.event = { name: "", data: "", id: "" };
      if (data) this.onEvent(name, JSON.parse(data), id);
      return;
    }
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "event") this.event.name = value;
    if (field === "data") this.event.data += value;
    if (field === "id") this.event.id = value;
    if (field === "retry") this.retrySeconds = Number(value) / 1000;
  }
}

function onEvent(conversation, answer, name, data, id) {
  const view = views.get(answer);
  if (id) answer.lastEventId = id;
  if (FINAL_STATES.has(name)) {
    answer.metrics = name === "completed" ? data : {};
    return finish(conversation, answer, name, data.error);
  }
  if (name === "queued") onQueued(answer, data);
  else if (name === "attempt") {
    Object.assign(answer, { attempt: data.attempt, text: "", thinking: "", lastEventId: "" });
    delete answer.pace;
    view?.clear();
    onRunning(answer);
  } else if (name === "thinking") {
    answer.thinking += data.thinking;
    view?.thinking.append(data.thinking);
    onRunning(answer);
  } else if (name === "") {
    answer.text += data.text;
    view?.text.append(data.text);
    answer.pace = answer.pace || { chars: -data.text.length, startedAt: performance.now() };
    answer.pace.chars += data.text.length;
    onRunning(answer);
  }
  view?.update();
  return saveSoon();
}

function onQueued(answer, place) {
  answer.state = "queued";
  answer.place = { ...place, eta_seconds: answer.place?.eta_seconds };
  announce(describePlace(place));
}

function onRunning(answer) {
  if (answer.state !== "running") announce("The model is at work.");
  answer.state = "running";
  answer.place = null;
}

let saveTimer = null;

function saveSoon() {
  saveTimer = saveTimer || setTimeout(() => {
    saveTimer = null;
    save(current);
  }, SAVE_SECONDS * 1000);
}

// ---------------------------------------------------------------- The list of tasks

let tasks = []; // Newest first.
let areTasksKnown = false;
let hasOlderTasks = false;
let wantedTasks = TASKS_A_PAGE;

async function refreshTasks() {
  const newest = [];
  let hasMore = true;
  while (hasMore && newest.length < wantedTasks) {
    const before = newest.length ? `&before=${newest[newest.length - 1].task_id}` : "";
    const page = await getJson(`tasks?limit=${TASKS_A_PAGE}${before}`);
    newest.push(...page.tasks);
    hasMore = page.more && page.tasks.length > 0;
  }
  [tasks, hasOlderTasks] = [newest, hasMore];
  areTasksKnown = true;
  showTasks();
  showWhatIsListed();
}

/** The list knows the model that the server chose and, sooner than the stream, the time left. */
function showWhatIsListed() {
  const answer = lastAnswer();
  const task = tasks.find((listed) => answerTo(current, listed) === answer);
  if (!task || !answer) return;
  answer.model = answer.model || task.model;
  if (answer.state === "queued" && task.state === "queued") answer.place = task;
  views.get(answer)?.update();
}

/** The answer of a conversation that comes from a task. Tasks in memory are numbered from 1 again
 * when the server restarts, so that the number alone does not tell. */
function answerTo({ turns }, task) {
  return turns.find((turn, index) =>
    turn.taskId === task.task_id && turns[index - 1].text.includes(task.summary));
}

const rows = new Map(); // What shows a task, by its id.

function showTasks() {
  const list = byId("task-list");
  tasks.forEach((task, index) => {
    const row = rows.get(task.task_id) || new TaskRow(task.task_id);
    rows.set(task.task_id, row);
    row.update(task);
    if (list.children[index] !== row.element) list.insertBefore(row.element, list.children[index]);
  });
  const ids = new Set(tasks.map((task) => task.task_id));
  for (const [taskId, row] of rows) {
    if (ids.has(taskId)) continue;
    row.element.remove();
    rows.delete(taskId);
  }
  byId("no-tasks").hidden = !areTasksKnown || tasks.length > 0;
  byId("older-tasks").hidden = !hasOlderTasks;
}

class TaskRow {
  constructor(taskId) {
    const open = () => openTask(this.task);
    this.state = make("span", { className: "chip" });
    this.summary = make("span", { className: "summary", dir: "auto" });
    this.about = make("span", { className: "about", dir: "auto" });
    this.open = make("button", { type: "button", className: "open", onclick: open },
      this.summary, make("span", { className: "line" }, this.state, " ", this.about));
    this.action = make("button", { type: "button", className: "quiet", onclick: () => this.act() });
    this.element = make("li", { className: "task" }, this.open, this.action);
    this.element.dataset.task = taskId;
  }

  update(task) {
    this.task = task;
    const isShown = Boolean(answerTo(current, task));
    this.element.dataset.state = task.state;
    if (isShown) this.open.setAttribute("aria-current", "true");
    else this.open.removeAttribute("aria-current");
    setText(this.state, task.state);
    setText(this.summary, visible(task.summary || task.path || `Task ${task.task_id}`));
    setText(this.about, describeTask(task));
    const action = FINAL_STATES.has(task.state) ? "Erase" : "Cancel";
    setText(this.action, action);
    this.action.setAttribute("aria-label", `${action} task ${task.task_id}`);
  }

  async act() {
    try {
      if (FINAL_STATES.has(this.task.state)) await eraseTask(this.task);
      else await cancelTask(this.task.task_id);
    } catch (error) {
      if (!(error instanceof Refused && error.status === 404)) complain(error);
      refreshNow();
    }
  }
}

/** Join what there is; a line breaks between the parts rather than within a short one. */
const joined = (...parts) => parts.filter(Boolean)
  .map((part) => (part.length < 25 ? part.replaceAll(" ", "\u00a0") : part)).join("\u00a0· ");

function describeTask(task) {
  const { model, state, started_at: startedAt, finished_at: finishedAt } = task;
  const eta = timeLeft(task.eta_seconds);
  if (state === "queued") {
    return joined(task.queue_position && `place ${numbers.format(task.queue_position)}`, eta, model,
      task.waiting_for && `waiting for ${task.waiting_for}`);
  }
  if (state === "running") return joined(eta, model);
  const took = startedAt && finishedAt ? (Date.parse(finishedAt) - Date.parse(startedAt)) / 1000 : 0;
  return joined(
    model, finishedAt && `${roughly(secondsSince(finishedAt))} ago`,
    took >= 1 && `took ${roughly(took)}`, state === "failed" && task.error,
  );
}

function openTask(task) {
  show(allConversations().find((conversation) => answerTo(conversation, task))
    || foreignConversation(task));
  go("chat");
  byId("conversation").focus();
}

/** Of a task that was submitted elsewhere, only the beginning of its prompt is known. */
function foreignConversation(task) {
  const summary = task.summary || task.path || `Task ${task.task_id}`;
  const text = summary.length < SUMMARY_CHARS ? summary : `${summary}…`;
  const answer = newAnswer({
    key: "", model: task.model, taskId: task.task_id, state: "queued",
  });
  return { ...newConversation(), isForeign: true, turns: [{ role: "user", text }, answer] };
}

async function eraseTask(task) {
  const { task_id: taskId, summary } = task;
  const question = `The server deletes the prompt and the answer of task ${taskId}: “${
    summary.slice(0, 80)}${summary.length > 80 ? "…" : ""}”`;
  if (!await confirm("Erase this task?", question, "Erase")) return;
  await send("DELETE", `result/${taskId}?only=erase`);
  allConversations().forEach((conversation) => forgetTask(conversation, task));
  announce(`Task ${taskId} is erased.`);
  refreshNow();
}

/** Erase the task from what this tab remembers, too. */
function forgetTask(conversation, task) {
  const answer = answerTo(conversation, task);
  if (!answer) return;
  if (conversation.turns.length === 2) {
    known.delete(conversation.id);
    memory.remove(`conversation:${conversation.id}`);
    conversation.turns = []; // So that it is not saved again.
    if (conversation === current) show(newConversation());
    return;
  }
  Object.assign(answer, { text: "", thinking: "" });
  views.get(answer)?.clear();
  finish(conversation, answer, "gone", "This answer is erased.");
}

/** Ask a question with two answers; the focus returns to where it was. */
function confirm(title, text, yes) {
  const dialog = byId("confirm-dialog");
  setText(byId("confirm-title"), title);
  setText(byId("confirm-text"), visible(text));
  setText(byId("confirm-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
  });
}

// ---------------------------------------------------------------- Models and workers

let hasModels = false;
let onModelsListed;
const modelsListed = new Promise((resolve) => {
  onModelsListed = resolve;
});

async function refreshModels() {
  const lists = Promise.all([getJson("api/tags"), getJson("api/ps")]);
  const [tags, loaded] = await lists.catch((error) => {
    if (error instanceof Refused) onModelsListed();
    throw error;
  });
  hasModels = tags.models?.length > 0;
  showModels(tags.models || [], loaded.models || []);
  onModelsListed();
  return loaded.models || [];
}

/** Offer these models; `isKnown` says that the server has listed them. */
function showModels(models, loaded, isKnown = true) {
  const loadedNames = new Set(loaded.map((model) => model.name));
  const options = models.map(({ name, details }) => ({ name, label: [
    name, loadedNames.has(name) && "loaded", details?.parameter_size,
  ].filter(Boolean).join(" · ") }));
  const select = byId("model");
  const chosen = select.value || memory.get("model") || "";
  // A chosen model stays chosen while its worker is away, where its task waits for it.
  if (chosen && !options.some(({ name }) => name === chosen)) {
    options.push({ name: chosen, label: isKnown ? `${chosen} · no worker has it now` : chosen });
  }
  if (!options.length) options.push({ name: "", label: "Default model" });
  const shown = JSON.stringify(options);
  if (select.dataset.shown === shown) return;
  select.dataset.shown = shown;
  select.replaceChildren(...options.map(({ name, label }) =>
    make("option", { value: name }, visible(label))));
  const preferred = chosen || options.find(({ name }) => loadedNames.has(name))?.name;
  select.value = preferred || options[0].name;
}

async function refreshWorkers() {
  const [status, loaded] = await Promise.all([getJson("status"), refreshModels()]);
  showFigures(byId("counts"), [
    ["Queued", numbers.format(status.queued)],
    ["Running", numbers.format(status.running)],
    ["Finished", numbers.format(status.finished)],
  ]);
  const loadedNames = new Set(loaded.map((model) => model.name));
  const workers = status.workers.filter((worker) => worker.connected !== false);
  byId("worker-list").replaceChildren(...workers.map((worker) => showWorker(worker, loadedNames)));
  byId("no-workers").hidden = workers.length > 0;
  byId("loaded-list").replaceChildren(...loaded.map(showLoaded));
  byId("nothing-loaded").hidden = loaded.length > 0;
}

function showFigures(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function showWorker({ worker, models, relays, models_omitted: omitted }, loadedNames) {
  // A worker may have hundreds: those that are loaded come first. The chat offers all of them.
  const names = [true, false].flatMap((isLoaded) =>
    (models || []).filter((name) => loadedNames.has(name) === isLoaded));
  const shown = names.slice(0, MAX_NAMES_SHOWN).map((name) => make("li", {
    className: loadedNames.has(name) ? "chip loaded" : "chip", dir: "auto",
  }, loadedNames.has(name) ? `${name} · loaded` : name));
  const further = names.length - shown.length + (omitted || 0);
  if (further) shown.push(make("li", { className: "chip" }, countOf(further, "further model")));
  // Of the tasks of others, the server says nothing.
  const running = tasks.filter((task) => task.state === "running" && task.worker === worker);
  return make("li", {},
    make("strong", { dir: "auto" }, visible(worker)),
    make("span", { className: "hint" },
      models ? countOf(models.length + (omitted || 0), "model") : "runs any model",
      relays === false ? " · too old for chats" : ""),
    make("ul", { className: "chips" }, ...shown),
    ...running.map((task) => make("span", { className: "hint runs", dir: "auto" },
      `Runs your task ${task.task_id}: ${visible(task.summary)}`)));
}

function showLoaded(model) {
  const bytes = model.size_vram || model.size;
  const details = [
    model.details?.parameter_size, model.details?.quantization_level,
    bytes && `${(bytes / 2 ** 30).toFixed(1)} GiB`,
  ].filter(Boolean).join(" · ");
  return make("li", {}, make("strong", { dir: "auto" }, visible(model.name)),
    make("span", { className: "hint" }, details));
}

// ---------------------------------------------------------------- Usage

let keptDays = 0; // For so many days the server keeps usage.

async function refreshUsage() {
  const query = keptDays ? `?days=${byId("usage-days").value}` : "";
  const { usage, days: shownDays, kept_days: newKeptDays } = await getJson(`usage${query}`);
  if (newKeptDays !== keptDays) offerDays(newKeptDays, shownDays);
  const total = (field) => usage.reduce((sum, row) => sum + (row[field] || 0), 0);
  showFigures(byId("usage-totals"), [
    ["Tasks", numbers.format(total("tasks"))],
    ["Tokens in", shortNumbers.format(total("prompt_tokens"))],
    ["Tokens out", shortNumbers.format(total("answer_tokens"))],
    ["GPU time", exactly(total("gpu_seconds"))],
  ]);
  const days = new Map();
  usage.forEach((row) => days.set(row.day, [...(days.get(row.day) || []), row]));
  const tokensOf = (list) =>
    list.reduce((sum, row) => sum + row.prompt_tokens + row.answer_tokens, 0);
  const most = Math.max(1, ...[...days.values()].map(tokensOf));
  const newestFirst = [...days].sort(([one], [other]) => (one < other ? 1 : -1));
  const table = byId("usage-table");
  table.querySelectorAll("tbody").forEach((body) => body.remove());
  table.append(...newestFirst.map(([day, list]) => showDay(day, list, tokensOf(list) / most)));
  table.hidden = !usage.length;
  byId("no-usage").hidden = usage.length > 0;
}

function offerDays(newKeptDays, shownDays) {
  keptDays = newKeptDays;
  const offered = [...new Set([7, 30, 90, keptDays])].filter((days) => days <= keptDays);
  const select = byId("usage-days");
  select.replaceChildren(...offered.sort((one, other) => one - other).map((days) =>
    make("option", { value: String(days) }, countOf(days, "day"))));
  select.value = String(shownDays);
}

function showDay(day, list, share) {
  const name = new Date(`${day}T00:00:00Z`).toLocaleDateString("en", {
    weekday: "short", day: "numeric", month: "short", timeZone: "UTC",
  });
  const heading = make("th", { scope: "rowgroup", colSpan: 5 }, make("span", {}, name), bar(share));
  return make("tbody", {}, make("tr", { className: "day" }, heading), ...list.map(showModelOfDay));
}

function showModelOfDay(row) {
  return make("tr", {},
    make("th", { scope: "row", dir: "auto" }, visible(row.model)),
    ...[row.tasks, row.prompt_tokens, row.answer_tokens].map((count) =>
      make("td", {}, shortNumbers.format(count))),
    make("td", {}, exactly(row.gpu_seconds)));
}

/** A bar for the eye; the numbers beside it say the same. */
function bar(share) {
  const namespace = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(namespace, "svg");
  const filled = document.createElementNS(namespace, "rect");
  Object.entries({ viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" })
    .forEach(([name, value]) => picture.setAttribute(name, value));
  Object.entries({ width: Math.max(1, 100 * share), height: 4 })
    .forEach(([name, value]) => filled.setAttribute(name, value));
  picture.append(filled);
  return picture;
}

// ---------------------------------------------------------------- Views

const VIEWS = ["chat", "tasks", "workers", "usage"];
const REFRESHES = {
  chat: refreshModels, tasks: refreshModels, workers: refreshWorkers, usage: refreshUsage,
};
const chosenView = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "chat");

function go(view) {
  if (chosenView() !== view) location.hash = view;
}

function showView() {
  const view = chosenView();
  document.body.dataset.view = view;
  const inMain = view === "tasks" ? "chat" : view;
  ["chat", "workers", "usage"].forEach((name) => {
    byId(name).hidden = name !== inMain;
  });
  document.querySelectorAll("nav a").forEach((link) => {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  refreshNow();
}

// ---------------------------------------------------------------- Refreshing

let wakeRefresher = () => {};
let isStale = false;

function refreshNow() {
  isStale = true;
  wakeRefresher();
}

/** Keep what is shown up to date while somebody can see it. */
async function refreshForever() {
  for (let failures = 0; ;) {
    let seconds = IDLE_REFRESH_SECONDS;
    isStale = false;
    if (!document.hidden) {
      const results = await Promise.allSettled([refreshTasks(), REFRESHES[chosenView()]()]);
      const [error] = results.filter(({ reason }) => reason).map(({ reason }) => reason);
      if (error) seconds = Math.max(pauseAfter(++failures), error.retryAfterSeconds || 0);
      else {
        failures = 0;
        // Something will change soon: a task that is not final, or a worker that starts.
        const isBusy = tasks.some(({ state }) => !FINAL_STATES.has(state)) || !hasModels;
        if (isBusy) seconds = BUSY_REFRESH_SECONDS;
      }
      setTrouble("refresh", error && describeTrouble(error, seconds));
    }
    const controller = new AbortController();
    wakeRefresher = () => controller.abort(new Error("Something else is shown."));
    if (isStale) wakeRefresher();
    await pause(seconds, controller.signal).catch(() => {});
  }
}

// ---------------------------------------------------------------- Events

function submitPrompt() {
  const box = byId("prompt");
  if (!box.value.trim() || isAnswering()) return;
  const text = box.value;
  box.value = "";
  onDraft();
  ask(text);
}

function onDraft() {
  const box = byId("prompt");
  // Where a browser cannot size the box by itself, its number of lines decides.
  box.rows = Math.min(10, Math.max(1, box.value.split("\n").length));
  try {
    memory.set("draft", box.value);
  } catch {
    memory.remove("draft");
  }
}

function onKey(event) {
  if (event.key === "Escape" && isAnswering() && !document.querySelector("dialog[open]")) stop();
}

function onPromptKey(event) {
  const isPlain = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  // The keyboard of a phone has no Shift+Enter.
  if (!isPlain || matchMedia("(pointer: coarse)").matches) return;
  event.preventDefault();
  submitPrompt();
}

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submitPrompt();
  });
  byId("prompt").addEventListener("keydown", onPromptKey);
  byId("prompt").addEventListener("input", onDraft);
  byId("model").addEventListener("change", () => memory.set("model", byId("model").value));
  byId("stop").addEventListener("click", stop);
  byId("try-now").addEventListener("click", wake);
  byId("sign-out").addEventListener("click", forgetToken);
  byId("new-conversation").addEventListener("click", () => {
    show(newConversation());
    go("chat");
    byId("prompt").focus();
  });
  byId("older-tasks").addEventListener("click", () => {
    wantedTasks += TASKS_A_PAGE;
    refreshTasks().catch(complain);
  });
  byId("usage-days").addEventListener("change", refreshNow);
  byId("token-dialog").addEventListener("cancel", (event) => event.preventDefault());
  byId("token-dialog").addEventListener("keydown", (event) => {
    if (event.key === "Escape") event.preventDefault();
  });
  byId("conversation").addEventListener("scroll", () => reading.onScroll());
  new ResizeObserver(() => reading.onResize()).observe(byId("conversation"));
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) save(current);
    else wake();
  });
  window.addEventListener("online", wake);
  window.addEventListener("pagehide", () => save(current));
  window.addEventListener("pageshow", (event) => event.persisted && wake());
  window.addEventListener("hashchange", () => {
    showView();
    byId(location.hash === "#prompt" ? "prompt" : chosenView()).focus();
  });
}

function start() {
  listen();
  byId("sign-out").hidden = !token;
  byId("prompt").value = memory.get("draft") || "";
  onDraft();
  showModels([], [], false);
  showView();
  show(load(memory.get("current")) || newConversation());
  refreshForever();
}

start();
