// Which page is shown: #/jobs, #/jobs/ID, #/workers, #/sample?job=ID&step=N.
import {get, poll} from './api.js';
import {errorBox} from './dom.js';
import {show as showJob} from './job_page.js';
import {show as showJobs} from './jobs_page.js';
import {show as showSample} from './sample_page.js';
import {show as showWorkers} from './workers_page.js';

const main = document.getElementById('main');
const context = {writes: false};
let stop = () => {};

function route() {
  const [path, query] = (location.hash.slice(1) || '/jobs').split('?');
  const parts = path.split('/').filter(Boolean).map(decodeURIComponent);
  if (parts[0] === 'jobs' && parts.length === 2) return [showJob, parts[1], {id: parts[1]}];
  const pages = {workers: [showWorkers, 'Workers'], sample: [showSample, 'Sample'], jobs: [showJobs, 'Jobs']};
  const [show, title] = pages[parts[0]] || pages.jobs;
  return [show, title, {query: new URLSearchParams(query || '')}];
}

function navigate(focus) {
  if (location.hash === '#main') return;
  stop();
  const [show, title, parameters] = route();
  document.title = `${title} – DiffMoE`;
  const section = (location.hash.slice(2) || 'jobs').split(/[/?]/)[0];
  for (const link of document.querySelectorAll('nav a')) {
    if (link.getAttribute('href') === `#/${section}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  main.replaceChildren();
  stop = show(main, {...parameters, context});
  if (focus) main.querySelector('h1').focus();
}

async function begin() {
  try {
    Object.assign(context, await get('console'));
  } catch (error) {
    main.replaceChildren(errorBox(error));
    setTimeout(begin, 2000);
    return;
  }
  const notice = document.getElementById('notice');
  notice.hidden = context.writes;
  notice.textContent = 'This console is read-only. Start the coordinator with --console-writes to sample and to change jobs here.';
  const line = document.getElementById('cluster');
  poll(5, async (signal) => {
    const cluster = await get('cluster', {}, signal);
    line.textContent = `version ${cluster.version}, ${cluster.slots_free} of ${cluster.slots_total} slots free`;
  }, () => {
    line.textContent = 'The coordinator does not answer.';
  });
  window.addEventListener('hashchange', () => navigate(true));
  navigate(false);
}

begin();
