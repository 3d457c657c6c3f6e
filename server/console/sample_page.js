// Making images: the form, live previews, the images and their receipt.
import {get, lines, newestSamples} from './api.js';
import {el, errorBox, facts, number} from './dom.js';

const SAMPLERS = {
  DIFFUSION_PROCESS_RECTIFIED_FLOW: ['euler', 'heun', 'dopri5', 'euler_maruyama'],
  DIFFUSION_PROCESS_DDPM: ['ddim', 'ancestral', 'dpmpp_2m'],
};
const MAX_IMAGES = 64;

function decode(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

// uint8 [height, width, channels] on a canvas.
function drawRaw(canvas, image) {
  const pixels = decode(image.pixels), {height, width, channels} = image;
  canvas.width = width;
  canvas.height = height;
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i += 1) {
    for (let c = 0; c < 3; c += 1) data.data[4 * i + c] = pixels[i * channels + (channels >= 3 ? c : 0)];
    data.data[4 * i + 3] = 255;
  }
  canvas.getContext('2d').putImageData(data, 0, 0);
}

// "0,3-5" or "all" -> class numbers.
export function parseClasses(text, classes) {
  if (text.trim() === 'all') return Array.from({length: classes}, (_, i) => i);
  const found = [];
  for (const part of text.split(',')) {
    const match = /^\s*(\d+)\s*(?:-\s*(\d+)\s*)?$/.exec(part);
    if (!match) throw new Error(`Classes: expected numbers like 0,3-5 or all, got "${text}".`);
    const low = Number(match[1]), high = match[2] === undefined ? low : Number(match[2]);
    if (high < low || high >= classes)
      throw new Error(`Classes: expected 0 to ${classes - 1}, got "${part.trim()}".`);
    for (let c = low; c <= high; c += 1) found.push(c);
  }
  return found;
}

function field(name, input) {
  return el('label', null, name, input);
}

// One request on its way.
class Sampling {
  constructor(host, total) {
    this.figures = [];
    this.done = [];
    this.pieces = new Map();
    this.bar = el('progress', {max: 1, value: 0, 'aria-label': 'Denoise steps'});
    this.text = el('p', {role: 'status'}, 'Asking…');
    this.grid = el('div', {class: 'images'});
    for (let i = 0; i < total; i += 1) {
      const figure = el('figure', null, el('canvas', {'aria-label': `Image ${i}, not made yet`, role: 'img'}), el('figcaption', null, `image ${i}`));
      this.figures.push(figure);
      this.grid.append(figure);
    }
    host.replaceChildren(this.text, this.bar, this.grid);
  }

  take(event) {
    if (event.queued) {
      const wait = Number(event.queued.estimated_wait_seconds);
      this.text.textContent = `Waiting: ${event.queued.reason || 'in the queue'}` + (wait > 0 ? `, about ${Math.ceil(wait)} s.` : '.');
    } else if (event.started) {
      this.text.textContent = `Sampling from ${event.started.checkpoint}.`;
    } else if (event.progress) {
      this.bar.max = event.progress.steps;
      this.bar.value = event.progress.step;
      this.text.textContent = `Step ${event.progress.step} of ${event.progress.steps}, ${event.progress.images_done} images done.`;
    } else if (event.preview) {
      const canvas = this.figures[event.preview.image.index]?.querySelector('canvas');
      if (canvas) drawRaw(canvas, event.preview.image);
    } else if (event.image) {
      this.takeImage(event.image);
    } else if (event.finished) {
      this.receipt = event.finished.receipt;
      this.bar.value = this.bar.max;
      this.text.textContent = `Done in ${number(this.receipt.seconds, 3)} s.`;
    }
  }

  // A large image comes in several pieces.
  takeImage(image) {
    const pieces = this.pieces.get(image.index) || [];
    pieces.push(decode(image.pixels));
    this.pieces.set(image.index, pieces);
    const size = pieces.reduce((sum, piece) => sum + piece.length, 0);
    if (size < Number(image.total_bytes)) return;
    let text = '';
    for (const piece of pieces) for (const byte of piece) text += String.fromCharCode(byte);
    const url = `data:image/png;base64,${btoa(text)}`;
    this.figures[image.index].replaceChildren(
      el('img', {src: url, alt: `Image ${image.index} of class ${image.label}`}),
      el('figcaption', null, `class ${image.label} `, el('a', {href: url, download: `sample-${image.index}.png`,
        'aria-label': `Save image ${image.index}`}, 'save')));
    this.done.push({index: image.index, label: image.label, url});
  }
}

function receiptCard(receipt, onDownload) {
  return el('section', {class: 'card', 'aria-label': 'Receipt'}, el('h2', null, 'Receipt'), facts([
    ['Checkpoint', receipt.checkpoint], ['Seed', receipt.seed], ['Sampler', receipt.sampler], ['Steps', String(receipt.steps)],
    ['Guidance', number(receipt.guidance)], ['Network calls', receipt.network_calls],
    ['Experts per token', receipt.capacity.map((c) => number(c, 3)).join(', ')],
  ]), el('p', {class: 'quiet'}, '"diffmoe replay" makes the same images again from the receipt.'),
  el('button', {type: 'button', onclick: onDownload}, 'Save receipt'));
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  el('a', {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function makeForm() {
  const input = (type, name, value, more) => el('input', {type, name, value, ...more});
  const inputs = {
    job: el('select', {name: 'job', required: true}),
    step: el('select', {name: 'step'}, el('option', {value: ''}, 'newest')),
    classes: input('text', 'classes', 'all', {required: true, maxlength: 200}),
    count: input('number', 'count', 1, {min: 1, max: MAX_IMAGES, required: true}),
    steps: input('number', 'steps', 50, {min: 1, max: 1000}),
    guidance: input('number', 'guidance', 2, {min: 0, max: 100, step: 'any'}),
    seed: input('text', 'seed', '', {pattern: '[0-9]*', placeholder: 'drawn', inputmode: 'numeric'}),
    sampler: el('select', {name: 'sampler'}),
    previews: input('checkbox', 'previews', '1', {checked: true}),
  };
  const names = {job: 'Job', step: 'Checkpoint', classes: 'Classes', count: 'Images per class', steps: 'Steps',
    guidance: 'Guidance', seed: 'Seed', sampler: 'Sampler'};
  const fields = el('div', {class: 'fields'}, Object.entries(names).map(([key, name]) => field(name, inputs[key])),
    el('label', {class: 'inline'}, inputs.previews, 'Show previews'));
  return {inputs, fields};
}

function requestOf(inputs, job) {
  const one = parseClasses(inputs.classes.value, job.spec.model.classes);
  const perClass = Number(inputs.count.value);
  const classes = one.flatMap((c) => Array.from({length: perClass}, () => c));
  if (classes.length > MAX_IMAGES) throw new Error(`Images: at most ${MAX_IMAGES} at a time here, got ${classes.length}.`);
  const request = {
    checkpoint: inputs.step.value ? `jobs/${job.id}/checkpoints/${inputs.step.value}` : `jobs/${job.id}`,
    classes, count: classes.length, sampler: inputs.sampler.value, guidance: Number(inputs.guidance.value), encoding: 'PNG',
    user: 'console',
  };
  if (inputs.sampler.value !== 'dopri5') request.steps = Number(inputs.steps.value);
  if (inputs.seed.value !== '') request.seed = inputs.seed.value;
  if (inputs.previews.checked) request.preview_every = Math.max(1, Math.floor(Number(inputs.steps.value) / 10));
  return request;
}

export function show(host, {query, context}) {
  const {inputs, fields} = makeForm();
  const errors = el('div'), result = el('div', {class: 'card', hidden: true}), receipt = el('div');
  const start = el('button', {type: 'submit', class: 'main'}, 'Sample');
  const cancel = el('button', {type: 'button', hidden: true}, 'Stop');
  const guard = el('fieldset', {disabled: !context.writes}, fields, el('div', {class: 'toolbar'}, start, cancel));
  let jobs = [], running = null;
  const page = new AbortController();

  const run = async () => {
    const job = jobs.find((j) => j.id === inputs.job.value);
    errors.replaceChildren();
    receipt.replaceChildren();
    running = new AbortController();
    start.disabled = true;
    cancel.hidden = false;
    try {
      if (!job) throw new Error('Job: choose one that has a checkpoint.');
      const body = requestOf(inputs, job);
      result.hidden = false;
      const sampling = new Sampling(result, body.count);
      await lines('samples', {body, signal: running.signal}, (event) => sampling.take(event));
      if (!sampling.receipt) throw new Error('The stream ended before all images were there. Try again.');
      newestSamples.set(job.id, {images: sampling.done, receipt: sampling.receipt});
      receipt.replaceChildren(receiptCard(sampling.receipt,
        () => save(`receipt-${job.id}.json`, JSON.stringify(sampling.receipt, null, 2))));
    } catch (error) {
      if (error.name !== 'AbortError') errors.replaceChildren(errorBox(error));
      else if (!page.signal.aborted) errors.replaceChildren(el('p', {class: 'quiet'}, 'Stopped.'));
    }
    start.disabled = false;
    cancel.hidden = true;
  };
  cancel.addEventListener('click', () => running.abort());

  const chooseJob = async () => {
    const job = jobs.find((j) => j.id === inputs.job.value);
    if (!job) return;
    const kind = (job.spec.diffusion && job.spec.diffusion.process) || 'DIFFUSION_PROCESS_RECTIFIED_FLOW';
    inputs.sampler.replaceChildren(...(SAMPLERS[kind] || ['']).map((s) => el('option', {value: s}, s || 'default')));
    const list = await get(`jobs/${encodeURIComponent(job.id)}/checkpoints`, {page_size: 100}, page.signal);
    inputs.step.replaceChildren(el('option', {value: ''}, 'newest'),
      ...list.checkpoints.filter((c) => !c.damaged).map((c) => el('option', {value: c.step}, `step ${c.step}`)));
    if (query.get('job') === job.id && query.get('step')) inputs.step.value = query.get('step');
  };
  const fail = (error) => {
    if (!page.signal.aborted) errors.replaceChildren(errorBox(error));
  };
  const load = async () => {
    jobs = (await get('jobs', {page_size: 200}, page.signal)).jobs.filter((j) => Number(j.latest_checkpoint_step) >= 0);
    inputs.job.replaceChildren(...jobs.map((j) => el('option', {value: j.id}, j.id)));
    if (jobs.some((j) => j.id === query.get('job'))) inputs.job.value = query.get('job');
    if (jobs.length === 0) errors.replaceChildren(el('p', null, 'No job has a checkpoint yet.'));
    await chooseJob();
  };
  inputs.job.addEventListener('change', () => chooseJob().catch(fail));

  host.append(el('h1', {tabindex: -1}, 'Sample'),
    context.writes ? el('span') : el('p', {class: 'notice'}, 'Read-only: start the coordinator with --console-writes to sample here.'),
    el('form', {class: 'card', 'aria-label': 'Sampling request', onsubmit: (event) => {
      event.preventDefault();
      run();
    }}, guard), errors, result, receipt);
  load().catch(fail);
  return () => {
    page.abort();
    if (running) running.abort();
  };
}
