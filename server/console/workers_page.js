// Workers and who uses their slots.
import {get, poll} from './api.js';
import {card, el, errorBox, facts, stateBadge, time} from './dom.js';

function user(text) {
  if (!text) return 'free';
  const job = /^jobs\/([^ ]+)(.*)$/.exec(text);
  return job ? el('span', null, el('a', {href: `#/jobs/${encodeURIComponent(job[1])}`}, job[1]), job[2]) : text;
}

function workerCard(worker) {
  return card(worker.id, stateBadge(worker.state),
    facts([['Host', worker.host], ['Connected since', time(worker.connect_time)], ['Version', worker.version],
      ['Metrics', worker.metrics_address]]),
    el('ul', {class: 'slots', 'aria-label': `Slots of ${worker.id}`}, worker.slots.map((slot) =>
      el('li', {class: slot.used_by ? 'used' : ''}, el('div', {class: 'quiet'}, `slot ${slot.index}, ${slot.device}`),
        user(slot.used_by)))));
}

export function show(host) {
  const errors = el('div'), list = el('div', {class: 'cards'}), sum = el('p', {class: 'quiet'});
  host.append(el('h1', {tabindex: -1}, 'Workers'), errors, sum, list);
  let shown = '';
  return poll(2, async (signal) => {
    const {workers} = await get('workers', {}, signal);
    errors.replaceChildren();
    const text = JSON.stringify(workers);
    if (text === shown) return;
    shown = text;
    const slots = workers.filter((w) => w.state === 'CONNECTED').flatMap((w) => w.slots);
    sum.textContent = `${slots.filter((s) => !s.used_by).length} of ${slots.length} slots are free.`;
    list.replaceChildren(...(workers.length > 0 ? workers.map(workerCard)
      : [el('p', null, 'No worker is connected. Start diffmoe-worker with --coordinator and this coordinator\'s address.')]));
  }, (error) => errors.replaceChildren(errorBox(error)));
}
