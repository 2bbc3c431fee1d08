// Requests to the service, relative to the page, so that a path prefix in front of both does not matter.

const KEY = "fmhub-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export const base = new URL(".", document.baseURI).href;

/** A refusal, in the service's own words. */
export class Refusal extends Error {
  constructor(status, problem, request) {
    super(problem.message);
    Object.assign(this, { status, code: problem.code, param: problem.param, request });
  }
}

async function send(path, options = {}) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  let answer;
  try {
    answer = await fetch(base + path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, { message: "The service does not answer.", code: "no_answer" }, "");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().then((body) => body.error, () => null);
  throw new Refusal(
    answer.status,
    problem ?? { message: `The service answered ${answer.status}.`, code: "unknown" },
    answer.headers.get("x-request-id") ?? "",
  );
}

const path = (model, rest) => `v1/models/${model.split("/").map(encodeURIComponent).join("/")}${rest}`;

function upload(file) {
  const body = new FormData();
  body.append("file", file, file.name);
  return { method: "POST", body };
}

export const models = async () => (await (await send("v1/models")).json()).data;
export const describe = async (model) => (await send(path(model, ""))).json();
export const examples = async (model) => (await send(path(model, "/examples"))).json();

export async function example(model, name) {
  const answer = await send(path(model, `/examples/${encodeURIComponent(name)}`));
  return new File([await answer.blob()], name);
}

export async function examplePicture(model, name) {
  const answer = await send(path(model, `/examples/${encodeURIComponent(name)}/preview`));
  return URL.createObjectURL(await answer.blob());
}

/** Return the address of a picture of one sample; of the first one without a key. */
export async function picture(model, file, sample, signal) {
  const query = sample ? `?sample=${encodeURIComponent(sample)}` : "";
  const answer = await send(path(model, `/preview${query}`), { ...upload(file), signal });
  return URL.createObjectURL(await answer.blob());
}

/** Embed a file; where the model has examples, with its neighbours among them. */
export async function embed(model, file, signal) {
  try {
    const answer = await (await send(path(model, "/neighbours"), { ...upload(file), signal })).json();
    return { ...answer, data: answer.data.map((entry) => ({ ...entry, ...entry.result })) };
  } catch (error) {
    if (error.code !== "no_examples") throw error;
    return (await send(path(model, "/embeddings"), { ...upload(file), signal })).json();
  }
}

/** Run a task: {file} where the answer is one file, {answer} where it is JSON. */
export async function run(model, task, file) {
  const answer = await send(path(model, `/${encodeURIComponent(task)}`), upload(file));
  if (answer.headers.get("content-type")?.startsWith("application/json")) return { answer: await answer.json() };
  const named = /filename\*=UTF-8''([^;]+)/.exec(answer.headers.get("content-disposition") ?? "");
  const name = named ? decodeURIComponent(named[1]) : `${task}.bin`;
  return { file: new File([await answer.blob()], name) };
}
