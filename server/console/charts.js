// Charts as SVG. Each has a text that says the same to those who can't see it.
import {el, number, svg} from './dom.js';

const HEIGHT = 240, LEFT = 52, RIGHT = 8, TOP = 8, BOTTOM = 30;

// Charts are stretched to their column; fewer units across keep the text readable on a narrow screen.
const chartWidth = () => (window.innerWidth < 760 ? 340 : 560);

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return [0, 1];
  if (low === high) return [low - 0.5, high + 0.5];
  return [low, high];
}

function ticks([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-9; x += step) found.push(Number(x.toPrecision(12)));
  return found;
}

function pathOf(points, x, y) {
  let text = '', pen = 'M';
  for (const [px, py] of points) {
    if (!Number.isFinite(py)) {
      pen = 'M';  // a gap
      continue;
    }
    text += `${pen}${x(px).toFixed(1)} ${y(py).toFixed(1)}`;
    pen = 'L';
  }
  return text;
}

function axes(width, xRange, yRange, x, y, xName) {
  const parts = [];
  for (const tick of ticks(yRange, 4)) {
    parts.push(svg('line', {class: 'grid-line', x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick)}),
      svg('text', {x: LEFT - 6, y: y(tick) + 4, 'text-anchor': 'end'}, number(tick, 3)));
  }
  for (const tick of ticks(xRange, width / 100))
    parts.push(svg('text', {x: x(tick), y: HEIGHT - 14, 'text-anchor': 'middle'}, number(tick, 6)));
  parts.push(svg('text', {x: width - RIGHT, y: HEIGHT - 2, 'text-anchor': 'end'}, xName));
  return parts;
}

function legend(series) {
  return el('ul', {class: 'legend'}, series.map(({name}, i) => el('li', null,
    svg('svg', {viewBox: '0 0 18 8', 'aria-hidden': 'true'},
      svg('line', {class: `series-${i % 8}`, x1: 0, x2: 18, y1: 4, y2: 4, 'stroke-width': 3})), name)));
}

// `name` says what is drawn; `xName` the horizontal axis. draw([{name, points: [[x, y], ...]}]) replaces the curves.
export function lineChart(name, xName) {
  const root = el('div', {class: 'chart'});
  return {
    root,
    draw(series) {
      const drawn = series.filter(({points}) => points.length > 1);
      if (drawn.length === 0) {
        root.replaceChildren(el('p', {class: 'quiet'}, 'No curve yet.'));
        return;
      }
      const width = chartWidth();
      const all = drawn.flatMap(({points}) => points);
      const xRange = range(all.map(([px]) => px)), yRange = range(all.map(([, py]) => py));
      const x = (v) => LEFT + (v - xRange[0]) / (xRange[1] - xRange[0]) * (width - LEFT - RIGHT);
      const y = (v) => HEIGHT - BOTTOM - (v - yRange[0]) / (yRange[1] - yRange[0]) * (HEIGHT - TOP - BOTTOM);
      const last = drawn.map((s) => `${s.name} ${number(s.points[s.points.length - 1][1])}`).join(', ');
      root.replaceChildren(
        svg('svg', {viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img',
          'aria-label': `${name}, ${xName} ${number(xRange[0], 6)} to ${number(xRange[1], 6)}; last: ${last}`},
        axes(width, xRange, yRange, x, y, xName),
        drawn.map(({points}, i) => svg('path',
          {class: `curve series-${i % 8}`, d: pathOf(points, x, y), 'data-points': points.length}))),
        drawn.length > 1 ? legend(drawn) : el('span'));
    },
  };
}

// 0: red, 1: the page's colour, 2 and more: blue.
function loadColor(load) {
  if (!Number.isFinite(load)) return '#808080';
  const far = Math.min(1, Math.abs(load - 1));
  return `hsl(${load < 1 ? 8 : 218} 75% 50% / ${(0.06 + 0.9 * far).toFixed(3)})`;
}

// rows: [{name, values: [load]}], one per layer; a load of 1 is an expert's fair share.
export function heatMap(rows) {
  const width = chartWidth();
  const columns = Math.max(1, ...rows.map((row) => row.values.length));
  const left = 62, cellWidth = (width - left) / columns, cellHeight = Math.max(10, Math.min(26, 300 / rows.length));
  const parts = [];
  let dead = 0;
  rows.forEach((row, r) => {
    parts.push(svg('text', {x: left - 6, y: (r + 0.5) * cellHeight + 4, 'text-anchor': 'end'}, row.name));
    row.values.forEach((load, c) => {
      if (load === 0) dead += 1;
      parts.push(svg('rect', {class: 'cell', x: left + c * cellWidth, y: r * cellHeight, width: Math.max(1, cellWidth - 1),
        height: cellHeight - 1, fill: loadColor(load)},
      svg('title', null, `${row.name}, expert ${c}: ${number(load, 3)} of its share`)));
    });
  });
  const height = rows.length * cellHeight + 16;
  parts.push(svg('text', {x: left, y: height - 3}, 'expert 0'),
    svg('text', {x: width, y: height - 3, 'text-anchor': 'end'}, `expert ${columns - 1}`));
  return el('div', null,
    svg('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img',
      'aria-label': `Load of ${columns} experts in ${rows.length} layers; ${dead} without tokens`}, parts),
    el('p', {class: 'quiet'}, 'Tokens per expert over the mean share: red less, blue more, pale as planned.'));
}
