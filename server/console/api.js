// The coordinator's HTTP API. Every error is an ApiError that says what to do.

const ROOT = '/api/v1/';

export class ApiError extends Error {
  constructor(message, status, hint) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

const HINTS = {
  UNREACHABLE: 'The coordinator does not answer. Check that it runs; this page tries again by itself.',
  UNAVAILABLE: 'The coordinator is starting or stopping. This page tries again by itself.',
  NOT_FOUND: 'It may have been removed. The list of jobs shows what there is.',
  PERMISSION_DENIED: 'Ask whoever runs the coordinator.',
  RESOURCE_EXHAUSTED: 'Close another page of the console or wait, then try again.',
  UNIMPLEMENTED: 'This coordinator does not offer it.',
  DEADLINE_EXCEEDED: 'The coordinator is busy. Try again.',
};

function errorFrom(body, httpCode) {
  const error = body && body.error;
  if (!error) return new ApiError(`The coordinator answered with HTTP status ${httpCode}.`, 'UNKNOWN', '');
  const violations = (error.details && error.details.violations) || [];
  const text = violations.length > 0 ? violations.map((v) => `${v.field}: ${v.description}`).join('; ') : error.message;
  return new ApiError(text, error.status, HINTS[error.status] || '');
}

async function call(path, options) {
  let reply;
  try {
    reply = await fetch(ROOT + path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('No answer.', 'UNREACHABLE', HINTS.UNREACHABLE);
  }
  if (!reply.ok) throw errorFrom(await reply.json().catch(() => null), reply.status);
  return reply;
}

function withParameters(path, parameters) {
  const query = new URLSearchParams(parameters || {}).toString();
  return query ? `${path}?${query}` : path;
}

export async function get(path, parameters, signal) {
  return (await call(withParameters(path, parameters), {signal})).json();
}

const jsonPost = (body, signal) =>
  ({method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body || {}), signal});

export async function post(path, body) {
  return (await call(path, jsonPost(body))).json();
}

// Calls onMessage for each line of a stream of JSON objects. `body`: POST, else GET.
export async function lines(path, {parameters, body, signal}, onMessage) {
  const reply = await call(withParameters(path, parameters), body ? jsonPost(body, signal) : {signal});
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) break;
    const parts = (rest + value).split('\n');
    rest = parts.pop();
    for (const part of parts) {
      if (part.trim() === '') continue;
      const message = JSON.parse(part);
      if (message.error) throw errorFrom(message, message.error.code);
      onMessage(message);
    }
  }
}

// Server-sent events of a job; opened again by the browser when it breaks. Returns how to stop.
export function watch(job, {onMessage, onError, onEnd}) {
  const source = new EventSource(`${ROOT}jobs/${encodeURIComponent(job)}/watch`);
  source.onmessage = (event) => onMessage(JSON.parse(event.data));
  source.addEventListener('end', () => {
    source.close();
    onEnd();
  });
  source.addEventListener('failure', (event) => {
    const body = JSON.parse(event.data);
    onError(errorFrom(body, body.error.code));
  });
  source.onerror = () => onError(new ApiError('The live connection broke.', 'UNAVAILABLE', 'It is opened again by itself.'));
  return () => source.close();
}

// Calls `load` now and again every `seconds` after it ended, until the returned function is called.
export function poll(seconds, load, onError) {
  const controller = new AbortController();
  let timer = 0;
  const round = async () => {
    try {
      await load(controller.signal);
    } catch (error) {
      if (!controller.signal.aborted) onError(error);
    }
    if (!controller.signal.aborted) timer = setTimeout(round, seconds * 1000);
  };
  round();
  return () => {
    controller.abort();
    clearTimeout(timer);
  };
}

// What was sampled in this page, by job: {images: [url], receipt}.
export const newestSamples = new Map();
