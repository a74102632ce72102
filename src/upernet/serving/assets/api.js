// Requests to the server: the token, retries when it is busy, and errors as sentences.

let token = sessionStorage.getItem("token");
let askForToken = async () => null;

export class ServerError extends Error {}

/** Sets the function that asks the person for a token; it gets what was wrong with the last one. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

/** Fetches a path, waits and tries again while the server is busy, and returns the response. */
async function request(path, options = {}, onWait = () => {}) {
  for (;;) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      throw new ServerError("The server cannot be reached; check that upernet serve is running.");
    }
    if (response.ok) return response;
    const { error } = await response.json().catch(() => ({ error: `the server answered with ${response.status}` }));
    if (response.status === 401) {
      token = await askForToken(token ? error : "");
      sessionStorage.setItem("token", token);
    } else if (response.status === 429) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      onWait(seconds);
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    } else {
      throw new ServerError(sentence(error));
    }
  }
}

export async function models() {
  return (await request("/v1/models")).json();
}

export async function modelDetails(name) {
  return (await request(`/v1/models/${encodeURIComponent(name)}`)).json();
}

export async function examples() {
  return (await request("/v1/examples")).json();
}

export async function example(name) {
  return (await request(`/assets/examples/${encodeURIComponent(name)}`)).blob();
}

/** Parses a photo; `parameters` are those of POST /v1/parse. Returns the response. */
export async function parse(file, name, parameters, onWait) {
  const form = new FormData();
  form.append("file", file, name);
  return request(`/v1/parse?${new URLSearchParams(parameters)}`, { method: "POST", body: form }, onWait);
}

function sentence(text) {
  const joined = String(text);
  return joined.charAt(0).toUpperCase() + joined.slice(1);
}
