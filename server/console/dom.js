// Making elements. Text always becomes text nodes, never markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'class') node.setAttribute('class', value);
    else if (value === true) node.setAttribute(name, '');
    else node.setAttribute(name, String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export function card(title, ...children) {
  return el('section', {class: 'card', 'aria-label': title}, el('h2', null, title), ...children);
}

// A table; rows are lists of strings or nodes. Labels appear beside cells on narrow screens.
export function table(caption, columns, rows) {
  return el('table', {'aria-label': caption},
    el('thead', null, el('tr', null, columns.map((column) => el('th', {scope: 'col'}, column)))),
    el('tbody', null, rows.map((row) => el('tr', null, row.map((cell, i) =>
      el('td', {'data-label': columns[i]}, cell instanceof Node ? cell : el('span', null, String(cell))))))));
}

export function facts(pairs) {
  return el('dl', {class: 'facts'}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== '')
    .map(([name, value]) => el('div', null, el('dt', null, name), el('dd', null, value))));
}

const TONES = {
  RUNNING: 'good', SUCCEEDED: 'good', CONNECTED: 'good', QUEUED: 'warn', STARTING: 'warn', PAUSED: 'warn', PAUSING: 'warn',
  CANCELLING: 'warn', FAILED: 'bad', CANCELLED: 'bad', SILENT: 'bad',
};
export const stateBadge = (state) =>
  el('span', {class: `state ${TONES[state] || ''}`}, state.toLowerCase().replaceAll('_', ' '));

export function errorBox(error) {
  return el('div', {class: 'error', role: 'alert'}, el('strong', null, error.message || String(error)),
    error.hint ? el('div', null, error.hint) : null);
}

export function number(value, digits = 4) {
  const x = Number(value);
  if (value === undefined || value === null || value === '') return '';
  if (!Number.isFinite(x)) return Number.isNaN(x) ? 'not a number' : String(x);
  if (x !== 0 && (Math.abs(x) >= 1e6 || Math.abs(x) < 1e-3)) return x.toExponential(2);
  return String(Number(x.toPrecision(digits)));
}

export function bytes(value) {
  let x = Number(value);
  for (const unit of ['B', 'kB', 'MB', 'GB']) {
    if (x < 1000 || unit === 'GB') return `${Number(x.toPrecision(3))} ${unit}`;
    x /= 1000;
  }
  return '';
}

export function duration(seconds) {
  const s = Math.round(Number(seconds));
  if (!(s > 0)) return '';
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
}

export const time = (text) => (text ? new Date(text).toLocaleString() : '');
