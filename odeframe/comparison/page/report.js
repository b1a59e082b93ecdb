"use strict";
(function () {
  const page = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#8c564b"];
  const MARKS = ["circle", "square", "diamond", "triangle", "cross"];
  const COSTS = { parameters: "parameters", evaluations_forward: "evaluations forward",
    evaluations_backward: "evaluations backward", evaluations: "evaluations in all", seconds: "seconds",
    peak_memory_mb: "memory MB" };
  const NS = "http://www.w3.org/2000/svg";
  const WIDTH = 560, HEIGHT = 360, LEFT = 56, RIGHT = 14, TOP = 12, BOTTOM = 34;
  const by = (id) => document.getElementById(id);

  const state = { sort: null, down: true, chosen: new Set(), filters: {}, text: "" };
  const rows = page.rows.map((row, index) => ({ ...row, index }));
  const varying = page.axes.filter((axis) => new Set(rows.map((row) => row.words[axis])).size > 1);
  const levels = (axis) => [...new Set(rows.map((row) => row.words[axis]))];
  const colourOf = (row) => COLOURS[(varying[0] ? levels(varying[0]).indexOf(row.words[varying[0]]) : 0) % COLOURS.length];
  const markOf = (row) => MARKS[(varying[1] ? levels(varying[1]).indexOf(row.words[varying[1]]) : 0) % MARKS.length];

  // A number of a row: a cost, or "metric:NAME"; undefined where there is none.
  function value(row, key) {
    if (key === "parameters") return row.parameters === null ? undefined : row.parameters;
    const found = key.startsWith("metric:") ? row.metrics[key.slice(7)] : row.costs[key];
    return found && found.value !== null ? found.value : undefined;
  }
  function half(row, key) {
    const found = key.startsWith("metric:") ? row.metrics[key.slice(7)] : row.costs[key];
    return found && found.half !== null ? found.half : undefined;
  }
  const columns = [
    ...page.axes.map((axis) => ({ title: axis, text: (row) => row.words[axis], key: (row) => row.words[axis] })),
    { title: "status", text: (row) => row.status + (row.failed && row.seeds ? ` (${row.failed} failed)` : ""),
      key: (row) => row.status },
    ...page.metrics.map((name) => numeric(name, `metric:${name}`)),
    ...Object.entries(COSTS).map(([key, title]) => numeric(title, key)),
    { title: "solver", text: (row) => row.solver_status, key: (row) => row.solver_status },
    { title: "reason", text: (row) => row.reasons.join(" | "), key: (row) => row.reasons.join(" "), style: "reason" },
  ];
  function numeric(title, key) {
    return { title, style: "number", key: (row) => value(row, key), text: (row) => {
      const number = value(row, key), width = half(row, key);
      if (number === undefined) return "";
      return key === "parameters" ? number.toLocaleString("en") : shown(number) + (width ? ` ± ${shown(width)}` : "");
    } };
  }
  function shown(number) {
    if (number === 0) return "0";
    const size = Math.abs(number);
    if (size >= 1000) return Math.round(number).toLocaleString("en");
    return size < 1e-3 ? number.toExponential(1) : String(Number(number.toPrecision(size < 1 ? 3 : 4)));
  }

  function visible() {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = rows.filter((row) => {
      if (Object.entries(state.filters).some(([axis, wanted]) => wanted &&
          (axis === "status" ? row.status : row.words[axis]) !== wanted)) return false;
      const text = [...Object.values(row.words), row.status, ...row.reasons].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const column = columns[state.sort];
    if (!column) return kept;
    const sign = state.down ? -1 : 1;
    return kept.sort((a, b) => {
      const x = column.key(a), y = column.key(b);
      const none = (v) => v === undefined || v === "";
      if (none(x) || none(y)) return none(x) - none(y); // what has no value stands last, whichever way
      return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y))) || a.index - b.index;
    });
  }

  function element(name, attributes, text) {
    const made = document.createElementNS(NS, name);
    for (const [key, each] of Object.entries(attributes || {})) made.setAttribute(key, each);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function html(name, text, style) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (style) made.className = style;
    return made;
  }
  function option(select, key, text) {
    const made = html("option", text);
    made.value = key;
    select.append(made);
  }

  function choose(row) {
    if (!row.curves.length) return;
    if (!state.chosen.delete(row.index)) state.chosen.add(row.index);
    draw();
  }
  function hot(index, on) {
    for (const each of document.querySelectorAll(`[data-row="${index}"]`)) each.classList.toggle("hot", on);
  }
  function link(made, row) {
    made.dataset.row = row.index;
    made.addEventListener("click", () => choose(row));
    made.addEventListener("mouseenter", () => hot(row.index, true));
    made.addEventListener("mouseleave", () => hot(row.index, false));
    return made;
  }

  function drawTable(kept) {
    const head = html("tr");
    columns.forEach((column, index) => {
      const cell = html("th", column.title);
      cell.tabIndex = 0;
      if (state.sort === index) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      const sort = () => {
        state.down = state.sort === index ? !state.down : column.style === "number";
        state.sort = index;
        draw();
        by("table").tHead.rows[0].cells[index].focus();
      };
      cell.addEventListener("click", sort);
      cell.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
      head.append(cell);
    });
    by("table").tHead.replaceChildren(head);
    by("table").tBodies[0].replaceChildren(...kept.map((row) => {
      const line = link(html("tr", undefined, row.status), row);
      if (state.chosen.has(row.index)) line.classList.add("chosen");
      for (const column of columns) line.append(html("td", column.text(row), column.style));
      return line;
    }));
    by("shown").textContent = `${kept.length} of ${rows.length} rows`;
  }

  function scale(values, low, high, logarithmic) {
    let least = Math.min(...values), most = Math.max(...values);
    if (logarithmic) { least = Math.log10(least); most = Math.log10(most); }
    if (!(most > least)) { least -= 0.5; most += 0.5; }
    const room = 0.05 * (most - least);
    least -= room; most += room;
    const at = (v) => low + ((logarithmic ? Math.log10(v) : v) - least) / (most - least) * (high - low);
    return { at, ticks: logarithmic ? logTicks(least, most) : evenTicks(least, most) };
  }
  // Multiples of 1, 2 or 5 times a power of ten, some five of them.
  function evenTicks(least, most) {
    const rough = (most - least) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const ticks = [];
    for (let k = Math.ceil(least / step); k * step <= most; k += 1) ticks.push(k * step);
    return ticks;
  }
  function logTicks(least, most) {
    const ticks = [];
    for (let power = Math.floor(least); power <= most; power += 1) {
      for (const factor of most - least > 2.5 ? [1] : [1, 2, 5]) {
        const place = power + Math.log10(factor);
        if (place >= least && place <= most) ticks.push(10 ** place);
      }
    }
    return ticks.length > 1 ? ticks : evenTicks(10 ** least, 10 ** most);
  }
  function frame(svg, across, up, titles) {
    svg.replaceChildren();
    svg.append(element("path", { class: "axis", fill: "none", d: `M${LEFT},${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` }));
    for (const tick of across.ticks) {
      svg.append(element("text", { x: across.at(tick), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, shown(tick)));
    }
    for (const tick of up.ticks) {
      svg.append(element("path", { class: "axis", d: `M${LEFT},${up.at(tick)}H${WIDTH - RIGHT}`, opacity: 0.5 }));
      svg.append(element("text", { x: LEFT - 5, y: up.at(tick) + 4, "text-anchor": "end" }, shown(tick)));
    }
    svg.append(element("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, titles[0]));
    svg.append(element("text", { x: LEFT + 6, y: TOP + 6 }, titles[1]));
  }
  function empty(svg, text) {
    svg.replaceChildren(element("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, text));
  }
  function mark(shape, x, y, size, colour) {
    const d = { square: `M${x - size},${y - size}h${2 * size}v${2 * size}h${-2 * size}z`,
      diamond: `M${x},${y - 1.3 * size}l${1.3 * size},${1.3 * size}l${-1.3 * size},${1.3 * size}l${-1.3 * size},${-1.3 * size}z`,
      triangle: `M${x},${y - 1.2 * size}l${1.2 * size},${2.2 * size}h${-2.4 * size}z`,
      cross: `M${x - size},${y}h${size * 2}M${x},${y - size}v${size * 2}` }[shape];
    const attributes = { class: "mark", fill: colour, stroke: colour };
    return d ? element("path", { ...attributes, d }) : element("circle", { ...attributes, cx: x, cy: y, r: size });
  }

  const better = (key, row) => key === "metric:" + row.monitor ? row.mode === "max" : false;
  function drawScatter(kept) {
    const svg = by("scatter"), x = by("scatter-x").value, y = by("scatter-y").value;
    const points = kept.filter((row) => value(row, x) !== undefined && value(row, y) !== undefined);
    if (!points.length) return empty(svg, "no row has both");
    const xs = points.map((row) => value(row, x));
    const logarithmic = Math.min(...xs) > 0 && Math.max(...xs) > 5 * Math.min(...xs);
    const across = scale(xs, LEFT, WIDTH - RIGHT, logarithmic);
    const spread = points.flatMap((row) => [value(row, y) - (half(row, y) || 0), value(row, y) + (half(row, y) || 0)]);
    const up = scale(spread, HEIGHT - BOTTOM, TOP, false);
    const title = (select) => select.options[select.selectedIndex].text;
    frame(svg, across, up, [title(by("scatter-x")) + (logarithmic ? " (log)" : ""), title(by("scatter-y"))]);
    const sign = better(y, points[0]) ? 1 : -1;
    const front = [];
    for (const row of [...points].sort((a, b) => value(a, x) - value(b, x) || sign * (value(b, y) - value(a, y)))) {
      if (!front.length || sign * value(row, y) > sign * value(front[front.length - 1], y)) front.push(row);
    }
    svg.append(element("polyline", { class: "front",
      points: front.map((row) => `${across.at(value(row, x))},${up.at(value(row, y))}`).join(" ") }));
    for (const row of points) {
      const px = across.at(value(row, x)), py = up.at(value(row, y)), width = half(row, y), colour = colourOf(row);
      if (width) {
        svg.append(element("path", { stroke: colour, opacity: 0.5,
          d: `M${px},${up.at(value(row, y) - width)}V${up.at(value(row, y) + width)}` }));
      }
      const made = link(mark(markOf(row), px, py, front.includes(row) ? 6 : 4.5, colour), row);
      made.classList.toggle("chosen", state.chosen.has(row.index));
      made.classList.toggle("dim", state.chosen.size > 0 && !state.chosen.has(row.index));
      made.append(element("title", {}, `${row.label}\n${columns.filter((c) => c.style === "number")
        .map((c) => `${c.title}: ${c.text(row)}`).join("\n")}`));
      svg.append(made);
    }
  }

  function drawCurves(kept) {
    const svg = by("curves"), x = by("curve-x").value, y = by("curve-y").value;
    const able = kept.filter((row) => row.curves.some((curve) => (curve[y] || []).length));
    const picked = rows.filter((row) => state.chosen.has(row.index) && row.curves.some((curve) => curve[y]));
    const best = [...able].sort((a, b) => b.score - a.score).slice(0, 6);
    const drawn = picked.length ? picked : best;
    by("curve-note").textContent = picked.length ? `${picked.length} chosen` : drawn.length ? `best ${drawn.length} shown` : "";
    const lines = drawn.flatMap((row) => row.curves.filter((curve) => curve[x] && curve[y] && curve[y].length)
      .map((curve) => {
        const finite = curve[y].map((_, k) => k).filter((k) => curve[y][k] !== null && curve[x][k] !== undefined);
        return { row, seed: curve.seed, xs: finite.map((k) => curve[x][k]), ys: finite.map((k) => curve[y][k]) };
      }).filter((line) => line.ys.length));
    if (!lines.length) return empty(svg, "no learning curve");
    const across = scale(lines.flatMap((line) => line.xs), LEFT, WIDTH - RIGHT, false);
    const every = lines.flatMap((line) => line.ys);
    const up = scale(every, HEIGHT - BOTTOM, TOP, y.endsWith("loss") && Math.min(...every) > 0);
    frame(svg, across, up, [x, y]);
    for (const line of lines) {
      const points = line.ys.map((v, k) => [across.at(line.xs[k]), up.at(v)]);
      const colour = colourOf(line.row);
      const made = link(element("polyline", { class: "curve", stroke: colour, points: points.join(" ") }), line.row);
      made.append(element("title", {}, `${line.row.label}, seed ${line.seed}`));
      svg.append(made);
      const [px, py] = points[points.length - 1];
      svg.append(mark(markOf(line.row), px, py, 3, colour));
    }
  }

  function drawLegend() {
    const entries = [];
    const add = (text, shape, colour) => {
      const entry = html("span"), icon = element("svg", { viewBox: "0 0 14 14" });
      icon.append(mark(shape, 7, 7, 4.5, colour));
      entry.append(icon, text);
      entries.push(entry);
    };
    if (varying[0]) levels(varying[0]).forEach((text, k) => add(text, "circle", COLOURS[k % COLOURS.length]));
    if (varying[1]) levels(varying[1]).forEach((text, k) => add(text, MARKS[k % MARKS.length], "#7f7f7f"));
    by("legend").replaceChildren(...entries);
  }

  function draw() {
    const kept = visible();
    drawTable(kept);
    drawScatter(kept);
    drawCurves(kept);
  }

  function start() {
    by("summary").textContent = page.summary;
    for (const axis of [...varying, "status"]) {
      const select = html("select");
      select.setAttribute("aria-label", axis);
      option(select, "", `${axis}: all`);
      for (const text of axis === "status" ? new Set(rows.map((row) => row.status)) : levels(axis)) option(select, text, text);
      select.addEventListener("change", () => { state.filters[axis] = select.value; draw(); });
      by("selects").append(select);
    }
    by("search").addEventListener("input", () => { state.text = by("search").value; draw(); });
    by("clear").addEventListener("click", () => {
      state.filters = {}; state.text = ""; state.chosen.clear();
      by("search").value = "";
      for (const select of by("selects").children) select.value = "";
      draw();
    });
    for (const name of page.metrics) option(by("scatter-y"), `metric:${name}`, `test ${name}`);
    for (const [key, title] of Object.entries(COSTS)) {
      option(by("scatter-x"), key, title);
      option(by("scatter-y"), key, title);
    }
    by("scatter-x").value = "evaluations";
    if (page.metrics.includes(page.monitor)) by("scatter-y").value = `metric:${page.monitor}`;
    const names = [...new Set(rows.flatMap((row) => row.curves.flatMap((curve) => Object.keys(curve))))];
    for (const name of ["epoch", "seconds", "evaluations"]) option(by("curve-x"), name, name);
    for (const name of names.filter((each) => !["seed", "epoch", "seconds", "evaluations"].includes(each))) {
      option(by("curve-y"), name, name);
    }
    if (names.includes(`val_${page.monitor}`)) by("curve-y").value = `val_${page.monitor}`;
    for (const id of ["scatter-x", "scatter-y", "curve-x", "curve-y"]) by(id).addEventListener("change", draw);
    const list = (id, texts) => by(id).querySelector("ul").replaceChildren(...texts.map((text) => html("li", text)));
    by("illegal").querySelector("summary").textContent = `${page.illegal.length} illegal combinations`;
    by("illegal").hidden = !page.illegal.length;
    list("illegal", page.illegal);
    list("versions", page.versions);
    const monitored = columns.findIndex((column) => column.title === page.monitor && column.style === "number");
    if (monitored >= 0) { state.sort = monitored; state.down = page.mode === "max"; }
    drawLegend();
    draw();
  }
  start();
}());
