// Requests to the server this page came from. In: a path and a body. Out: the answer's JSON, or an
// ApiError whose message can be shown. What may surprise: a 401 does not fail; the request waits
// until a key was entered and is sent again. A 503 or 429 that says when to retry is retried twice.

const RETRIES = 2;
const LONGEST_WAIT = 10; // seconds; beyond it the user decides
const KEY = "seqvis-key";

/** What the server, or the way to it, refused. `details` are the further fields of its error. */
export class ApiError extends Error {
  constructor(code, message, details = {}) {
    super(message);
    this.code = code;
    this.details = details;
  }
}

export class Api {
  /** @param {(refused: boolean) => Promise<string>} askKey resolves with a key of the user's */
  constructor(askKey) {
    this.askKey = askKey;
    this.asking = null;
    this.key = sessionStorage.getItem(KEY);
  }

  get = (path, options) => this.#json(path, { method: "GET" }, options);
  delete = (path, options) => this.#json(path, { method: "DELETE" }, options);
  upload = (path, fields, options) => this.#json(path, { method: "POST", body: form(fields) }, options);
  post = (path, body, options) => this.#json(path, asJson(body), options);

  /** Yields the objects of an NDJSON answer as they come. Ends with its last line, `done`. */
  async *stream(path, body, options = {}) {
    const response = await this.#send(path, asJson(body), options);
    for await (const line of lines(response.body)) {
      const told = JSON.parse(line);
      if (told.error) throw new ApiError(told.error.code, told.error.message, told.error);
      yield told;
      if (told.done) return;
    }
    throw new ApiError("broken", "The answer broke off. Try again.");
  }

  /** Shows a stored picture in an <img>; with a key it has to be fetched, as <img> sends none. */
  async showImage(img, path) {
    img.onerror = () => img.classList.add("missing");
    if (!this.key) {
      img.src = address(path);
      return;
    }
    try {
      const response = await this.#send(path, { method: "GET" }, {});
      const url = URL.createObjectURL(await response.blob());
      img.onload = () => URL.revokeObjectURL(url);
      img.src = url;
    } catch {
      img.classList.add("missing");
    }
  }

  async #json(path, request, options = {}) {
    const response = await this.#send(path, request, options);
    try {
      return await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("broken", "The answer broke off. Try again.");
    }
  }

  async #send(path, request, { signal, onWait }) {
    for (let attempt = 0; ; attempt += 1) {
      const used = this.key;
      const response = await reach(path, { ...withKey(request, used), signal });
      if (response.ok) return response;
      if (response.status === 401) {
        attempt -= 1; // a key mistyped is no attempt
        await this.#enterKey(used);
        signal?.throwIfAborted();
        continue;
      }
      const seconds = Number(response.headers.get("Retry-After") ?? NaN);
      const later = response.status === 503 || response.status === 429;
      if (!later || attempt >= RETRIES || !(seconds <= LONGEST_WAIT)) throw await refusal(response);
      onWait?.(Math.max(1, Math.ceil(seconds)));
      await pause(1000 * seconds, signal);
    }
  }

  /** All requests that are refused together wait for one key. */
  async #enterKey(used) {
    if (this.key !== used) return; // entered meanwhile
    this.asking ??= this.askKey(used !== null).then((key) => {
      this.key = key;
      this.asking = null;
      sessionStorage.setItem(KEY, key);
    });
    await this.asking;
  }
}

/** The server's paths begin with "/", but the page may stand behind a proxy's prefix. */
const address = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

/** A picture's address. In the query, because browsers and proxies rewrite paths such as "a/../b". */
export const imagePath = (id) => `v1/images?id=${encodeURIComponent(id)}`;

const asJson = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

const withKey = (request, key) =>
  key ? { ...request, headers: { ...request.headers, Authorization: `Bearer ${key}` } } : request;

function form(fields) {
  const made = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== null && value !== undefined) made.append(name, value);
  }
  return made;
}

async function reach(path, request) {
  try {
    return await fetch(address(path), request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("network", "The server cannot be reached. Is it running, and are you online?");
  }
}

async function refusal(response) {
  try {
    const { error } = await response.json();
    return new ApiError(error.code, error.message, error);
  } catch {
    return new ApiError("unknown", `The server answered ${response.status} and said nothing more.`);
  }
}

async function* lines(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const pieces = (rest + value).split("\n");
      rest = pieces.pop();
      yield* pieces.filter(Boolean);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("network", "The connection broke while the answer came. Try again.");
  } finally {
    reader.cancel().catch(() => {});
  }
  if (rest) yield rest;
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
