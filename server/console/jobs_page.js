// All jobs, newest first.
import {get, poll} from './api.js';
import {el, errorBox, number, stateBadge, table} from './dom.js';

const STATES = ['QUEUED', 'STARTING', 'RUNNING', 'PAUSED', 'SUCCEEDED', 'FAILED', 'CANCELLED'];

export function progressBar(job) {
  const step = Number(job.progress ? job.progress.step : 0);
  const total = Number((job.progress && job.progress.total_steps) || (job.spec.train && job.spec.train.steps) || 0);
  return el('span', null,
    el('progress', {max: total || 1, value: step, 'aria-label': `Step ${step} of ${total}`}),
    el('span', {class: 'quiet'}, `${step} of ${total}`));
}

function row(job) {
  const progress = job.progress || {};
  const known = job.progress && Number(progress.step) > 0;
  return [
    el('a', {href: `#/jobs/${encodeURIComponent(job.id)}`}, job.id),
    stateBadge(job.state),
    progressBar(job),
    known ? number(progress.loss) : '',
    known && job.state === 'RUNNING' ? number(progress.images_per_second, 3) : '',
    job.reason,
  ];
}

export function show(host) {
  let pageToken = '';
  const name = el('input', {type: 'search', maxlength: 60});
  const state = el('select', null, el('option', {value: ''}, 'any'),
    STATES.map((s) => el('option', {value: s}, s.toLowerCase())));
  const list = el('div', {class: 'card'}), errors = el('div');
  const older = el('button', {type: 'button', hidden: true}, 'Older jobs');
  const newest = el('button', {type: 'button', hidden: true}, 'Newest jobs');

  const load = async (signal) => {
    const parameters = {page_size: 50};
    if (name.value) parameters.name_contains = name.value;
    if (state.value) parameters.states = state.value;
    if (pageToken) parameters.page_token = pageToken;
    const answer = await get('jobs', parameters, signal);
    errors.replaceChildren();
    older.hidden = !answer.next_page_token;
    newest.hidden = !pageToken;
    older.dataset.token = answer.next_page_token;
    const focused = document.activeElement && list.contains(document.activeElement) && document.activeElement.textContent;
    list.replaceChildren(answer.jobs.length > 0
      ? table('Jobs', ['Job', 'State', 'Progress', 'Loss', 'Images/s', 'Reason'], answer.jobs.map(row))
      : el('p', null, name.value || state.value ? 'No job fits.' : 'No jobs yet. "diffmoe submit FILE" submits one.'));
    // The keyboard stays where it was when the list is drawn again.
    if (focused) [...list.querySelectorAll('a')].find((a) => a.textContent === focused)?.focus();
  };
  let stop = () => {};
  const restart = () => {
    stop();
    stop = poll(2, load, (error) => errors.replaceChildren(errorBox(error)));
  };
  const filter = () => {
    pageToken = '';
    restart();
  };
  name.addEventListener('input', filter);
  state.addEventListener('change', filter);
  older.addEventListener('click', () => {
    pageToken = older.dataset.token;
    restart();
  });
  newest.addEventListener('click', filter);

  host.append(el('h1', {tabindex: -1}, 'Jobs'),
    el('div', {class: 'toolbar'}, el('label', null, 'Name contains', name), el('label', null, 'State', state), newest, older),
    errors, list);
  restart();
  return () => stop();
}
