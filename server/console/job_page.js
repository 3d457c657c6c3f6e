// One job, live.
import {post, watch} from './api.js';
import {duration, el, errorBox, facts, number, stateBadge, time} from './dom.js';
import {checkpointCard, eventCard, expertCards, loadCheckpoints, loadHistory, logCard, lossCard, sampleCard,
  thresholdCard} from './job_parts.js';
import {progressBar} from './jobs_page.js';

const ENDED = ['SUCCEEDED', 'FAILED', 'CANCELLED'];
const ACTIONS = {
  pause: {name: 'Pause', fits: (s) => ['QUEUED', 'STARTING', 'RUNNING'].includes(s)},
  resume: {name: 'Resume', fits: (s) => ['PAUSED', 'PAUSING'].includes(s)},
  cancel: {name: 'Cancel job', fits: (s) => !ENDED.includes(s), ask: 'Cancel this job? Its ranks are stopped and it can\'t be resumed.'},
};

function summary(job) {
  const p = job.progress || {};
  const live = job.progress && Number(p.step) > 0;
  return facts([
    ['Loss', live ? number(p.loss) : ''], ['Images/s', live && job.state === 'RUNNING' ? number(p.images_per_second, 3) : ''],
    ['Time left', job.state === 'RUNNING' ? duration(p.seconds_left) : ''], ['Gradient norm', live ? number(p.grad_norm, 3) : ''],
    ['Learning rate', live ? number(p.learning_rate, 3) : ''],
    ['Newest checkpoint', Number(job.latest_checkpoint_step) >= 0 ? `step ${job.latest_checkpoint_step}` : 'none yet'],
    ['Attempt', job.epoch], ['Restarts', String(job.restarts)], ['Priority', String(job.priority)],
    ['Ranks', job.spec.parallel ? String(job.spec.parallel.ranks) : ''], ['Submitted', time(job.create_time)],
    ['Ended', time(job.end_time)], ['Forked from', job.forked_from],
  ]);
}

function actions(id, job, writes, onError) {
  if (!writes) return null;
  return el('div', {class: 'toolbar'}, Object.entries(ACTIONS).filter(([, a]) => a.fits(job.state)).map(([verb, action]) =>
    el('button', {type: 'button', 'data-verb': verb, onclick: async () => {
      if (action.ask && !window.confirm(action.ask)) return;
      try {
        await post(`jobs/${encodeURIComponent(id)}/${verb}`, {});
      } catch (error) {
        onError(error);
      }
    }}, action.name)));
}

export function show(host, {id, context}) {
  const head = el('section', {class: 'card wide', 'aria-label': 'State of the job'}), errors = el('div', {class: 'wide'});
  const parts = {
    loss: lossCard(), experts: expertCards(), thresholds: thresholdCard(), checkpoints: checkpointCard(), events: eventCard(),
  };
  const samples = sampleCard(id), logs = logCard(id);
  logs.root.classList.add('wide');
  host.append(el('h1', {tabindex: -1}, id), errors, el('div', {class: 'cards'}, head, parts.loss.root, ...parts.experts.roots,
    parts.thresholds.root, samples, parts.checkpoints.root, parts.events.root, logs.root));

  const controller = new AbortController();
  const fail = (error) => {
    if (!controller.signal.aborted) errors.replaceChildren(errorBox(error));
  };
  let lastStep = -1, lastCheckpoint = null, lastHead = '';
  const onJob = (job) => {
    const progress = job.progress;
    if (progress && Number(progress.step) !== lastStep && Number(progress.step) > 0) {
      if (lastStep >= 0) parts.loss.add(progress);
      lastStep = Number(progress.step);
      parts.experts.add(progress, job.spec);
    }
    if (job.latest_checkpoint_step !== lastCheckpoint) {
      lastCheckpoint = job.latest_checkpoint_step;
      loadCheckpoints(id, parts, controller.signal).catch(fail);
    }
    const text = JSON.stringify({...job, spec: null});
    if (text === lastHead) return;
    lastHead = text;
    const focused = document.activeElement && head.contains(document.activeElement) && document.activeElement.dataset.verb;
    head.replaceChildren(stateBadge(job.state), el('p', null, job.reason),
      job.next_command ? el('p', {class: 'quiet'}, 'What to do: ', el('code', null, job.next_command)) : el('span'),
      progressBar(job), summary(job), actions(id, job, context.writes, fail) || el('span'));
    if (focused) head.querySelector(`[data-verb="${focused}"]`)?.focus();
  };

  // A page in the background holds no stream: browsers allow few connections to one server.
  let stopWatch = () => {}, ended = false;
  const begin = async () => {
    try {
      await loadHistory(id, parts, controller.signal);
    } catch (error) {
      fail(error);
      return;
    }
    if (controller.signal.aborted || document.hidden || ended) return;
    stopWatch();
    stopWatch = watch(id, {
      onMessage: (message) => {
        errors.replaceChildren();
        onJob(message.job);
        parts.events.add(message.events);
      },
      onError: fail,
      onEnd: () => {
        ended = true;
      },
    });
  };
  document.addEventListener('visibilitychange', () => {
    stopWatch();
    if (!document.hidden) begin();
  }, {signal: controller.signal});
  begin();
  return () => {
    controller.abort();
    stopWatch();
    logs.stop();
  };
}
