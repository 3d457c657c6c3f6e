// Parts of the page of one job. Each has a root, and methods that are given what is new.
import {get, lines, newestSamples} from './api.js';
import {heatMap, lineChart} from './charts.js';
import {bytes, card, el, errorBox, number, table, time} from './dom.js';

const MAX_LIVE_POINTS = 3000;

// Every second point of a list that has become long.
function thin(points) {
  return points.length > MAX_LIVE_POINTS ? points.filter((_, i) => i % 2 === 0 || i === points.length - 1) : points;
}

export function lossCard() {
  const chart = lineChart('Loss', 'step');
  let points = [];
  return {
    root: card('Loss', chart.root),
    load(records) {
      points = records.map((r) => [Number(r.step), Number(r.loss)]);
      chart.draw([{name: 'loss', points}]);
    },
    add(progress) {
      const step = Number(progress.step);
      // After a restart from a checkpoint the curve goes on from there.
      points = points.filter(([x]) => x < step);
      points = thin([...points, [step, Number(progress.loss)]]);
      chart.draw([{name: 'loss', points}]);
    },
  };
}

export function expertCards() {
  const load = el('div'), capacity = lineChart('Experts per token', 'step'), now = el('div');
  const history = new Map();  // block -> points
  const empty = (node) => node.replaceChildren(el('p', {class: 'quiet'}, 'No data yet: it comes with the reports of a running job.'));
  empty(load);
  capacity.draw([]);
  return {
    roots: [
      card('Expert load', load),
      card('Capacity per layer', now, capacity.root,
        el('p', {class: 'quiet'}, 'Experts that a token uses under the rule of sampling, since this page was opened.')),
    ],
    add(progress, spec) {
      const layers = progress.layers || [];
      if (layers.length === 0) return;
      load.replaceChildren(heatMap(layers.map((l) => ({name: `block ${l.block}`, values: l.expert_load.map(Number)}))));
      for (const layer of layers) {
        const points = history.get(layer.block) || [];
        history.set(layer.block, thin([...points, [Number(progress.step), Number(layer.capacity)]]));
      }
      const wanted = spec.model && spec.model.capacity;
      now.replaceChildren(el('p', {class: 'quiet'}, (wanted ? `Trained for ${number(wanted, 3)}. ` : '') +
        `Now: ${layers.map((l) => `block ${l.block} ${number(l.capacity, 3)}`).join(', ')}.`));
      capacity.draw([...history].map(([block, points]) => ({name: `block ${block}`, points})));
    },
  };
}

export function thresholdCard() {
  const chart = lineChart('Thresholds', 'step');
  return {
    root: card('Thresholds', chart.root, el('p', {class: 'quiet'}, 'Mean over the experts of each layer, over training.')),
    load(points) {
      const byBlock = new Map();
      for (const point of points) {
        for (const layer of point.layers) {
          const mean = layer.thresholds.reduce((sum, t) => sum + Number(t), 0) / layer.thresholds.length;
          if (!byBlock.has(layer.block)) byBlock.set(layer.block, []);
          byBlock.get(layer.block).push([Number(point.step), mean]);
        }
      }
      chart.draw([...byBlock].map(([block, curve]) => ({name: `block ${block}`, points: curve})));
    },
  };
}

export function checkpointCard() {
  const body = el('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'List of checkpoints'});
  return {
    root: card('Checkpoints', body),
    load(job, checkpoints) {
      body.replaceChildren(checkpoints.length === 0 ? el('p', {class: 'quiet'}, 'No checkpoint yet.')
        : table('Checkpoints', ['Step', 'Loss', 'Size', 'Saved', ''], checkpoints.map((c) => [
          el('a', {href: `#/sample?job=${encodeURIComponent(job)}&step=${c.step}`, 'aria-label': `Sample from step ${c.step}`},
            c.step),
          number(c.loss), bytes(c.bytes), time(c.commit_time),
          [c.damaged ? 'damaged' : '', c.pinned ? 'pinned' : '', c.used_by.length > 0 ? `used by ${c.used_by.join(', ')}` : '']
            .filter(Boolean).join(', ')])));
    },
  };
}

export function eventCard() {
  const body = el('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'List of events'});
  const seen = new Map();
  return {
    root: card('Events', body),
    add(events) {
      if (events.length === 0 && seen.size > 0) return;
      for (const event of events) seen.set(event.sequence, event);
      const newest = [...seen.values()].sort((a, b) => Number(b.sequence) - Number(a.sequence)).slice(0, 200);
      body.replaceChildren(table('Events', ['Time', 'State', 'What happened'],
        newest.map((e) => [time(e.time), e.state.toLowerCase(), e.message])));
    },
  };
}

const MAX_LOG_LINES = 2000;

export function logCard(job) {
  const output = el('pre', {tabindex: 0, 'aria-label': 'Lines of the log'}), note = el('div');
  const rank = el('input', {type: 'number', min: 0, placeholder: 'all', size: 5});
  const grep = el('input', {type: 'text', maxlength: 100, placeholder: 'any'});
  const follow = el('input', {type: 'checkbox'});
  const button = el('button', {type: 'submit'}, 'Read');
  let running = null;
  const take = (message) => {
    const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 20;
    for (const line of message.lines) output.append(`[${line.rank}] ${line.text}\n`);
    while (output.childNodes.length > MAX_LOG_LINES) output.firstChild.remove();
    for (const notice of message.notices) note.append(el('p', {class: 'quiet'}, notice));
    if (atEnd) output.scrollTop = output.scrollHeight;
  };
  const read = async () => {
    running = new AbortController();
    button.textContent = 'Stop';
    note.replaceChildren();
    output.replaceChildren();
    const parameters = {tail_lines: 200, follow: follow.checked};
    if (rank.value !== '') parameters.ranks = rank.value;
    if (grep.value !== '') parameters.grep = grep.value;
    try {
      await lines(`jobs/${encodeURIComponent(job)}/logs`, {parameters, signal: running.signal}, take);
      if (output.childNodes.length === 0) note.append(el('p', {class: 'quiet'}, 'No line fits.'));
    } catch (error) {
      if (error.name !== 'AbortError') note.replaceChildren(errorBox(error));
    }
    running = null;
    button.textContent = 'Read';
  };
  const form = el('form', {class: 'toolbar', onsubmit: (event) => {
    event.preventDefault();
    if (running) running.abort();
    else read();
  }}, el('label', null, 'Rank', rank), el('label', null, 'Contains (RE2)', grep),
  el('label', {class: 'inline'}, follow, 'Follow'), button);
  return {root: card('Logs', form, note, output), stop: () => running && running.abort()};
}

// What was sampled from the job in this page; nothing without it.
export function sampleCard(job) {
  const sample = newestSamples.get(job);
  if (!sample) return null;
  const chart = lineChart('Experts per token along the way', 'share of the way from noise (0) to image (1)');
  const steps = sample.receipt.step_capacity || [];
  const layers = steps.length > 0 ? steps[0].layers.length : 0;
  chart.draw(Array.from({length: layers}, (_, i) => ({
    name: `MoE layer ${i + 1}`,
    points: steps.map((s, k) => [(k + 0.5) / steps.length, Number(s.layers[i])]),
  })));
  const root = card('Newest samples', el('div', {class: 'cards'},
    el('div', {class: 'images'}, sample.images.map((image) => el('figure', null,
      el('img', {src: image.url, alt: `Sample ${image.index} of class ${image.label}`}),
      el('figcaption', null, `class ${image.label}`)))),
    el('div', null, el('h3', null, 'Capacity over t'), chart.root)));
  root.classList.add('wide');
  return root;
}

export async function loadHistory(job, parts, signal) {
  const path = `jobs/${encodeURIComponent(job)}`;
  const [steps, thresholds, events] = await Promise.all([
    get(`${path}/steps`, {max_points: 1000}, signal),
    get(`${path}/thresholds`, {max_points: 200}, signal),
    get(`${path}/events`, {page_size: 1000}, signal),
  ]);
  parts.loss.load(steps.records);
  parts.thresholds.load(thresholds.points);
  parts.events.add(events.events);
}

export async function loadCheckpoints(job, parts, signal) {
  const path = `jobs/${encodeURIComponent(job)}`;
  const [checkpoints, thresholds] = await Promise.all([
    get(`${path}/checkpoints`, {page_size: 100}, signal), get(`${path}/thresholds`, {max_points: 200}, signal)]);
  parts.checkpoints.load(job, checkpoints.checkpoints);
  parts.thresholds.load(thresholds.points);
}
