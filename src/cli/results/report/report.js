"use strict";
// Draws the page from the figures in its JSON: charts with uPlot, and tables. Whatever a file says is written as text, never
// as markup. Texts of figures come from the program, except those of axes and of the values under the pointer.
(() => {
  const data = JSON.parse(document.getElementById("report").textContent);
  const main = document.querySelector("main");
  const { runs } = data;
  const several = runs.length > 1;

  // Elements.

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.append(...children);
    return made;
  };

  const section = (id, title, ...children) => {
    const shown = children.flat().filter(Boolean);
    if (!shown.length) return;
    const heading = element("h2", { id: `${id}-heading` }, title);
    main.append(element("section", { id, "aria-labelledby": heading.id }, heading, ...shown));
  };

  // On a phone each row is a list of its cells with their columns' names; the roles keep it a table for screen readers then.
  const table = (caption, { head, rows, numbers = { start: 0, end: 0 } }) => {
    if (!rows.length) return null;
    const isNumber = (at) => at > 0 && at >= numbers.start && at < numbers.end;
    const cell = (text, at) => {
      if (at === 0) return element("th", { role: "rowheader", scope: "row" }, text);
      const name = text.length > 24 ? "text" : isNumber(at) ? "number" : "";
      // The only column needs no name beside each of its cells.
      return element("td", { role: "cell", class: name, "data-column": head.length === 2 ? "" : head[at] }, text);
    };
    const line = (cells) => element("tr", { role: "row" }, ...cells);
    const names = head.map((name, at) => element("th", { role: "columnheader", scope: "col", class: isNumber(at) ? "number" : "" }, name));
    const body = rows.map((row) => line(row.map((text, at) => cell(String(text), at))));
    return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, element("table", { role: "table" },
      element("caption", {}, caption), element("thead", { role: "rowgroup" }, line(names)), element("tbody", { role: "rowgroup" }, ...body)));
  };

  // Few runs are columns side by side, so that the page need not be wider; many are rows.
  const tableOfRuns = (caption, fields) => {
    if (!fields.length) return null;
    const names = runs.map((run) => run.name);
    const cells = (field) => runs.map((_, at) => field[1](at));
    if (runs.length <= 4) return table(caption, { head: ["run", ...names], rows: fields.map((field) => [field[0], ...cells(field)]) });
    const rows = names.map((name, at) => [name, ...fields.map((field) => field[1](at))]);
    return table(caption, { head: ["run", ...fields.map((field) => field[0])], rows });
  };

  const note = (text) => text && element("p", { class: "caption" }, text);

  // Numbers of axes and of the values under the pointer.

  const three = (value) => value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
  const scaled = (value, units) => {
    const at = units.findLastIndex(([least]) => value >= least);
    return at < 1 ? `${Math.round(value)} ${units[0][1]}` : `${three(value / units[at][0])} ${units[at][1]}`;
  };
  const duration = (ns) => scaled(ns, [[1, "ns"], [1e3, "µs"], [1e6, "ms"], [1e9, "s"]]);
  const bytes = (size) => scaled(size, [[1, "B"], [1e3, "kB"], [1e6, "MB"], [1e9, "GB"]]);
  const number = (value) => value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) < 10 ? 2 : 0 });
  const seconds = (value) => `${number(value)} s`;
  const percentile = (nines) => `${(100 * (1 - 10 ** -nines)).toFixed(Math.max(0, Math.ceil(nines) - 2))} %`;
  const short = (value) => value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 4 });
  // "1 ms" instead of "1.00 ms".
  const tick = (format) => (value) => format(value).replace(/\.0+(?=\D|$)/, "").replace(/(\.\d*?)0+(?=\D|$)/, "$1");

  // Scales: how values are named, and which range is shown.

  const fromZero = { range: (_, __, most) => [0, most > 0 ? most * 1.05 : 1] };
  const axes = {
    seconds: { label: "seconds of the measured time", show: seconds, tick: short, scale: { range: (_, __, most) => [0, most] } },
    nines: {
      label: "percentile (logarithmic)", show: percentile, tick: percentile,
      splits: (_, __, from, until) => [0, Math.log10(2), 1, 2, 3, 4, 5, 6, 7, 8].filter((at) => at >= from && at <= until),
    },
    latency: { label: "response time (logarithmic)", show: duration, tick: tick(duration), scale: { distr: 3 } },
    rate: { label: "messages per second", show: (value) => `${number(value)}/s`, tick: short, scale: fromZero },
    number: { show: number, tick: short, scale: fromZero },
    cores: { label: "cores", show: (value) => `${three(value)} cores`, tick: short, scale: fromZero },
    bytes: { label: "resident", show: bytes, tick: tick(bytes), scale: fromZero },
  };

  // Charts. A line has a run, which is its colour; a number of dashes; a label; and points.

  const DASHES = [[], [8, 5], [2, 4]];
  const COLOURS = 7;
  const drawn = [];
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const colorOfRun = (run) => color(run === null ? "axis" : `run${run % COLOURS}`);

  const plot = ({ x, y, height = 360, lines, hooks = {}, isTimed, turned }, width) => {
    const axis = (of, side) => ({
      scale: side, label: of.label, labelSize: 22, size: side === "y" ? 72 : 40, stroke: () => color("ink"),
      font: "13px system-ui, sans-serif", labelFont: "13px system-ui, sans-serif",
      values: (_, splits) => splits.map((value) => (value === null ? null : of.tick(value))),
      grid: { stroke: () => color("grid"), width: 1 }, ticks: { stroke: () => color("axis"), width: 1, size: 5 },
      ...(of.splits && { splits: of.splits }), ...(side === "x" && { space: 70 }),
    });
    const series = lines.map(({ run, dash = 0, label, dots, isHidden }) => ({
      label, scale: "y", width: 2, dash: DASHES[dash], points: { show: Boolean(dots), size: 6 },
      stroke: isHidden ? "transparent" : () => colorOfRun(run), ...(turned && { paths: () => null }),
      // From the eighth run on, colours are repeated, with dots.
      ...(run >= COLOURS && { points: { show: true, size: 3 + 2 * Math.floor(run / COLOURS) } }),
      value: (_, value) => (value === null || value === undefined ? "–" : y.show(value)),
    }));
    const sides = turned ? [{ side: 3, size: turned, space: 20 }, { side: 2, size: 40, space: 70 }] : [{}, {}];
    return {
      width, height, hooks, legend: { markers: { width: 3, dash: (_, at) => ["solid", "dashed", "dotted"][lines[at - 1]?.dash ?? 0] } }, series: [{ label: x.name ?? "at", value: (_, at) => (at === null ? "–" : x.show(at)) }, ...series],
      scales: { x: { time: false, ...x.scale }, y: y.scale ?? {} }, axes: [{ ...axis(x, "x"), ...sides[0] }, { ...axis(y, "y"), ...sides[1] }],
      cursor: { drag: { setScale: false }, points: { size: 7 }, ...(isTimed && { sync: { key: "timeline" } }) },
    };
  };

  // Makes a figure with a chart, its caption, and its data as a table that is built when it is opened.
  const chart = (spec) => {
    const lines = spec.lines.filter((line) => line.points.some(([, value]) => value !== null));
    if (!lines.length) return null;
    const joined = uPlot.join(lines.map(({ points }) => [points.map(([at]) => at), points.map(([, value]) => value)]));
    const { title, caption, x, y } = spec;
    const place = element("div", { class: "chart" });
    const details = element("details", {}, element("summary", {}, "Data of this chart"));
    details.addEventListener("toggle", () => {
      if (!details.open || details.childElementCount > 1) return;
      const shown = (value) => (value === null || value === undefined ? "–" : y.show(value));
      const rows = spec.rows ?? joined[0].map((at, row) => [x.show(at), ...joined.slice(1).map((values) => shown(values[row]))]);
      details.append(table(title, { head: [x.name ?? x.label, ...(spec.head ?? lines.map((line) => line.label))], rows }));
    });
    const figure = element("figure", {}, ...(spec.heading ? [element("h3", {}, title)] : []), place,
      element("figcaption", {}, caption), details);
    drawn.push({ isTimed: spec.isTimed, make: () => {
      const made = new uPlot(plot({ ...spec, lines }, Math.max(place.clientWidth, 200)), joined, place);
      const canvas = made.ctx.canvas;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${title}. ${caption}`);
      return made;
    } });
    return figure;
  };

  const draw = () => drawn.forEach((one) => {
    one.chart?.destroy();
    one.chart = one.make();
  });

  // Vertical lines at these places of the horizontal axis.
  const verticals = (places, scale = "x") => (u) => {
    u.ctx.save();
    u.ctx.strokeStyle = color("axis");
    u.ctx.setLineDash([4 * uPlot.pxRatio, 4 * uPlot.pxRatio]);
    u.ctx.lineWidth = uPlot.pxRatio;
    for (const place of places) {
      const at = u.valToPos(place, scale, true);
      u.ctx.beginPath();
      u.ctx.moveTo(at, u.bbox.top);
      u.ctx.lineTo(at, u.bbox.top + u.bbox.height);
      u.ctx.stroke();
    }
    u.ctx.restore();
  };

  const named = (run, label) => (several ? `${runs[run].name}: ${label}` : label);
  // Of each run some kinds of lines: a label, dashes, and the points.
  const linesOf = (kinds, dots = false) => runs.flatMap((run, at) =>
    kinds.map(([label, points], dash) => ({ run: at, dash, dots, label: named(at, label), points: points(run, at) })));
  const positive = (value) => (value > 0 ? value : null);

  // The charts.

  const percentiles = () => chart({
    title: "Latency by percentile", x: { ...axes.nines, name: "percentile" }, y: { ...axes.latency, label: "latency (logarithmic)" }, height: 420,
    caption: "Each additional nine is one step to the right, towards the slowest messages. Response time counts from the intended send, "
      + "service time from the actual send. They differ where messages waited to be sent."
      + (data.curves.some((curve) => curve.server_and_network.length) ? " Server and network is the time between the kernel's timestamps." : ""),
    lines: data.curves.flatMap(({ name, ...curve }, run) =>
      [["response", "response time"], ["service", "service time"], ["server_and_network", "server and network"]].map(([field, label], dash) =>
        ({ run, dash, label: data.curves.length > 1 ? `${name}: ${label}` : label, points: curve[field].map(([at, ns]) => [at, positive(ns)]) }))),
  });

  const middle = (interval) => interval.at_s + interval.duration_s / 2;
  const intervals = (of) => (run) => run.record.intervals.map((interval) => [middle(interval), of(interval)]);
  const latencyOverTime = () => {
    const times = (field) => intervals((interval) => (interval.messages > 0 ? positive(interval[field]) : null));
    // With many runs, maxima hide everything else.
    const kinds = [["99 %", times("p99_ns")], ["50 %", times("p50_ns")], ["maximum", times("max_ns")]].slice(0, several ? 2 : 3);
    return chart({
      title: "Latency over time", x: axes.seconds, y: axes.latency, lines: linesOf(kinds, true),
      caption: "Response time of the messages that arrived in each interval. A gap in a line is an interval without messages.",
    });
  };
  const throughput = () => chart({
    title: "Throughput over time", x: axes.seconds, y: axes.rate,
    lines: linesOf([["received", intervals((interval) => (interval.duration_s > 0 ? interval.messages / interval.duration_s : null))]], true),
    caption: "Messages that arrived in each interval, per second. In a broadcast each delivery counts.",
  });

  const knee = () => {
    const tried = (run) => [...(run.record.search?.steps ?? [])].sort((one, other) => one.rate - other.rate);
    const of = (field) => (run) => tried(run).map((step) => [step.rate, positive(step[field])]);
    const failed = runs.flatMap(tried).filter((step) => !step.held && step.p99_ns > 0);
    const cross = (u) => failed.forEach((step) => {
      const [across, down, size] = [u.valToPos(step.rate, "x", true), u.valToPos(step.p99_ns, "y", true), 6 * uPlot.pxRatio];
      u.ctx.strokeStyle = color("ink");
      u.ctx.lineWidth = 2 * uPlot.pxRatio;
      u.ctx.beginPath();
      for (const way of [-1, 1]) {
        u.ctx.moveTo(across - size, down - way * size);
        u.ctx.lineTo(across + size, down + way * size);
      }
      u.ctx.stroke();
    });
    const found = runs.map((run) => run.record.search?.max_rate).filter(Boolean);
    const objectives = runs.map((run) => run.record.search?.objective).filter(Boolean);
    return chart({
      title: "Latency by rate", x: { ...axes.rate, label: "due messages per second", name: "due" }, y: axes.latency,
      lines: linesOf([["99 %", of("p99_ns")], ["50 %", of("p50_ns")], ["99.9 %", of("p999_ns")]], true),
      hooks: { draw: [verticals(found), cross] },
      caption: `Rates that were tried in the search for the highest one that holds ${objectives.join(" and ")}. A cross marks a rate that did not `
        + "hold, the vertical line the highest that did.",
    });
  };

  const herd = () => {
    const STEP_S = 0.1;
    const over = (of) => (run) => {
      let away = 0;
      return (run.record.storm?.over_time ?? []).map((interval, at) => {
        away = Math.max(0, away + interval.ended - interval.back);
        return [(at + 1) * STEP_S, of(interval, away)];
      });
    };
    return chart({
      title: "Connections after the cut", x: axes.seconds, y: { ...axes.number, label: "connections" },
      lines: linesOf([["away", over((_, away) => away)], ["attempts in 100 ms", over((interval) => interval.attempts)]]),
      caption: "Connections that were down at the end of each 100 ms, and attempts to reopen one within it.",
    });
  };

  // A value with its interval, look by look.
  const courses = (all, at, ends, show) => all.flatMap(({ name, course }, run) => ends.map(([field, label], end) =>
    ({ run, dash: end ? 1 : 0, dots: true, label: `${name} ${label}`.trim(), points: course.map((look) => [look[at], show(look[field])]) })));
  const goals = () => {
    const all = runs.flatMap((run, at) => (run.record.until?.goals ?? []).map((goal) => ({ name: named(at, goal.expression), course: goal.course })));
    return chart({
      title: "Goals", x: axes.seconds, y: { ...axes.latency, label: "response time", scale: {} },
      lines: courses(all, "at_s", [["value_ns", ""], ["low_ns", "low"], ["high_ns", "high"]], (ns) => ns),
      caption: "Each quantile of --until, with its interval, at every look at the run. All intervals of a run contain the true value "
        + "together, with the stated confidence, so the run may end by them.",
    });
  };
  const pairs = () => {
    const all = data.comparisons.flatMap(({ comparison }) => comparison.until?.goals ?? []).map((goal) => ({ name: goal.metric, course: goal.course }));
    const looks = all.flatMap((goal) => goal.course);
    if (!looks.length) return null;
    const margins = [1 + data.comparisons[0].comparison.threshold].flatMap((most) => [1 / most, most]);
    // Of the first intervals only the part within: they may be a hundred times as wide as the last.
    const seen = [...margins, ...looks.map((look) => look.ratio), ...all.flatMap(({ course }) => course.slice(-1)).flatMap((look) => [look.low, look.high])];
    const ratios = { label: "B / A", show: (value) => value.toFixed(3), tick: short, scale: { range: [0.98 * Math.min(...seen), 1.02 * Math.max(...seen)] } };
    const last = Math.max(...looks.map((look) => look.pairs));
    return chart({
      title: "Ratio by pairs of runs", heading: true, x: { label: "pairs of runs", name: "pairs", show: number, tick: short }, y: ratios,
      lines: [...courses(all, "pairs", [["ratio", ""], ["low", "low"], ["high", "high"]], (ratio) => ratio),
        ...margins.map((margin) => ({ run: null, dash: 2, label: "margin", points: [[looks[0].pairs, margin], [last, margin]] }))],
      caption: "The ratio of B to A after each pair of runs, with its interval, which may begin beyond the chart. The horizontal lines are "
        + "the margin: the verdict is known once the interval lies within it or beyond it. All intervals contain the true ratio together, "
        + "with the stated confidence.",
    });
  };

  const differences = () => {
    const change = (ratio) => 100 * (ratio - 1);
    const known = (data.comparisons[0]?.comparison.metrics ?? []).filter((metric) => metric.ratio > 0 && metric.ratio_low !== null && metric.ratio_high !== null);
    const most = Math.max(1, ...known.flatMap(({ ratio, ratio_low, ratio_high }) => [ratio, ratio_low, ratio_high]).map((ratio) => Math.abs(change(ratio))));
    const percent = (value) => `${value > 0 ? "+" : ""}${number(value)} %`;
    const whiskers = (u) => known.forEach((metric, at) => {
      const down = u.valToPos(at, "x", true);
      u.ctx.strokeStyle = colorOfRun(1);
      u.ctx.lineWidth = 3 * uPlot.pxRatio;
      u.ctx.beginPath();
      u.ctx.moveTo(u.valToPos(change(metric.ratio_low), "y", true), down);
      u.ctx.lineTo(u.valToPos(change(metric.ratio_high), "y", true), down);
      u.ctx.stroke();
    });
    // The metrics are on the vertical axis, from above.
    const names = { name: "metric", show: (at) => known[at]?.metric ?? "", tick: (at) => known[at]?.metric ?? "", splits: () => known.map((_, at) => at),
      scale: { ori: 1, dir: -1, range: [-0.5, known.length - 0.5] } };
    const narrow = main.clientWidth < 500;
    return chart({
      title: "Differences of B from A", heading: true, x: names, height: 70 + 34 * known.length, head: ["B compared with A", "from", "to"],
      y: { label: "B compared with A", show: percent, tick: percent, scale: { ori: 0, range: [-1.05 * most, 1.05 * most] } },
      lines: [{ run: 1, dash: 0, dots: true, label: "B compared with A", points: known.map((metric, at) => [at, change(metric.ratio)]) }],
      rows: known.map((metric) => [metric.metric, ...[metric.ratio, metric.ratio_low, metric.ratio_high].map((ratio) => percent(change(ratio)))]),
      hooks: { draw: [verticals([0], "y"), whiskers] }, turned: narrow ? 120 : 160,
      caption: `The dot is the difference of B from A, the line its interval (all together ${number(100 * (data.comparisons[0]?.comparison.confidence ?? 0))} %). `
        + "An interval that crosses 0 may be chance. The rate is that of messages, and more of it is better; more time is worse.",
    });
  };

  // Parts of percentiles, as bars.

  const split = () => {
    const PARTS = [["waiting_in_generator_ns", "waiting in the generator"], ["generator_kernel_ns", "generator's kernel"],
      ["server_and_network_ns", "server and network"], ["kernel_to_program_ns", "kernel to program"]];
    const QUANTILES = [["p50", "p50"], ["p90", "p90"], ["p99", "p99"], ["p999", "p99.9"]];
    const known = runs.filter(({ record }) => record.split && record.split.bounded < record.split.sampled);
    const bars = ({ record }) => QUANTILES.map(([field, name]) => [name, record.split[field]]).filter(([, found]) => found);
    if (!known.some((run) => bars(run).length)) return [];
    const part = (found, [field], at) => {
      const share = found[field] / Math.max(found.total_ns, 1);
      const made = element("span", { class: `part${at}` }, ...(share >= 0.15 ? [element("b", {}, `${(100 * share).toFixed(0)} %`)] : []));
      made.style.width = `${100 * share}%`;
      return made;
    };
    const ofRun = (run) => [
      several && element("h3", {}, run.name),
      element("div", { role: "img", "aria-label": `Percentiles of ${run.name} as bars of their parts; the table has the figures` },
        ...bars(run).map(([name, found]) => element("div", { class: "bar" },
          element("span", {}, `${name} `, element("b", {}, duration(found.total_ns))),
          element("div", {}, ...PARTS.map((of, at) => part(found, of, at)))))),
      note(`${run.sampled[0].toUpperCase()}${run.sampled.slice(1)}.`),
    ].filter(Boolean);
    const rows = known.flatMap((run) => bars(run).map(([name, found]) => [several ? `${run.name}: ${name}` : name, duration(found.total_ns),
      ...PARTS.map(([field]) => (found[field] ? duration(found[field]) : "0")), number(found.messages)]));
    return [
      element("figure", {},
        element("ul", { class: "parts" }, ...PARTS.map(([, name], at) => element("li", {}, element("span", { class: `part${at}` }), name))),
        ...known.flatMap(ofRun),
        element("figcaption", {}, "A bar is a percentile of the response time, from the intended send on the left to the program that reads the "
          + "answer on the right. Its parts are means of the messages that took about as long.")),
      table("Percentiles by their parts", { head: ["percentile", "response", ...PARTS.map(([, name]) => name), "sampled messages"], rows, numbers: { start: 1, end: 7 } }),
    ];
  };

  // The runs over time: heat maps and lines with one cursor for all of them.

  const timeline = () => {
    const { step_s: step, edges, runs: all } = data.timeline ?? { runs: [] };
    if (!all.length) return [];
    const columns = Math.max(...all.map((series) => series.open.length));
    const end = columns * step;
    const marks = all.flatMap(({ run }) => {
      let ends = 0;
      return (runs[run].record.stages ?? []).slice(0, -1).map((stage) => (ends += stage.seconds ?? stage.asked?.seconds));
    });
    const x = { ...axes.seconds, scale: { range: [0, end] } };
    const shared = { x, heading: true, isTimed: true };
    const columnAt = (u) => (u.cursor.idx === null || u.cursor.left < 0 ? null : Math.floor(u.posToVal(u.cursor.left, "x") / step));
    const points = (values) => values.map((value, at) => [(at + 0.5) * step, value]);
    const width = step < 1 ? `${Math.round(step * 1e3)} ms` : seconds(step);

    // The slider is for the keyboard and for fingers. It moves the cursor of all charts, and tells their values.
    const FIELDS = [["target", "target_per_s", axes.rate], ["sent", "sent_per_s", axes.rate], ["received", "received_per_s", axes.rate],
      ["p50", "p50_ns", axes.latency], ["p99", "p99_ns", axes.latency], ["max", "max_ns", axes.latency], ["open", "open", axes.number],
      ["opened", "opened", axes.number], ["closed", "closed", axes.number], ["errors", "errors", axes.number],
      ["server CPU", "cpu_cores", axes.cores], ["server memory", "rss_bytes", axes.bytes]]
      .filter(([, field]) => all.some((series) => series[field].some(Boolean)));
    const slider = element("input", { type: "range", min: 0, max: columns - 1, value: 0, step: 1 });
    const values = element("div", { class: "values" }, "Point at a chart, or move the slider, to see the values of a time.");
    const tell = (at) => {
      const digits = Math.max(0, Math.ceil(-Math.log10(step)));
      const time = `${(at * step).toFixed(digits)} to ${((at + 1) * step).toFixed(digits)} s`;
      const ofRun = (series) => FIELDS.map(([label, field, { show }]) => `${label} ${(series[field][at] ?? null) === null ? "–" : show(series[field][at])}`);
      const told = all.map((series) => [several ? `${runs[series.run].name}: ` : "", ofRun(series).join(", ")]);
      slider.value = at;
      slider.setAttribute("aria-valuetext", [time, ...told.map((parts) => parts.join(""))].join("; "));
      values.replaceChildren(element("p", { class: "time" }, time), ...told.map(([name, text], run) =>
        element("p", {}, ...(name ? [element("b", { class: `r${all[run].run % COLOURS}` }, name)] : []), text)));
    };
    slider.addEventListener("input", () => {
      const at = Number(slider.value);
      for (const { chart: u } of drawn.filter((one) => one.isTimed)) u.setCursor({ left: u.valToPos((at + 0.5) * step, "x"), top: 10 }, false);
      tell(at);
    });
    const follow = (u) => {
      const at = columnAt(u);
      if (at !== null && at < columns) tell(at);
    };

    const most = Math.max(...all.flatMap(({ cells }) => cells.flatMap((column) => column.map(([, count]) => count))));
    // Equal ratios of counts are equally far apart.
    const level = (count) => Math.min(7, Math.floor((8 * Math.log(count)) / Math.log(Math.max(most, 2))));
    const map = ({ run, cells, p50_ns: p50, p99_ns: p99, max_ns: max }) => {
      const cell = element("p", { class: "caption cell" }, "\u00a0");
      const paint = (u) => {
        const heat = Array.from({ length: 8 }, (_, at) => color(`heat${at}`));
        cells.forEach((column, at) => {
          const [left, right] = [at, at + 1].map((number) => Math.round(u.valToPos(number * step, "x", true)));
          for (const [row, count] of column) {
            const [bottom, top] = [edges[row], edges[row + 1]].map((ns) => Math.round(u.valToPos(ns, "y", true)));
            u.ctx.fillStyle = heat[level(count)];
            u.ctx.fillRect(left, top, Math.max(right - left, 1), Math.max(bottom - top, 1));
          }
        });
      };
      const point = (u) => {
        const column = cells[columnAt(u)];
        const row = edges.findLastIndex((edge) => edge <= u.posToVal(u.cursor.top, "y"));
        // Of charts without a pointer only the time is known.
        const within = u.over.matches(":hover") && column && row >= 0 && row + 1 < edges.length;
        const count = within && (column.find(([other]) => other === row)?.[1] ?? 0);
        cell.textContent = within ? `${duration(edges[row])} to ${duration(edges[row + 1])}: ${number(count)} messages` : "\u00a0";
      };
      const figure = chart({
        ...shared, title: `Latency over time${several ? `: ${runs[run].name}` : ""}`,
        y: { ...axes.latency, scale: { distr: 3, range: uPlot.rangeLog(edges[0], edges.at(-1), 10, false) } },
        lines: [["p99", p99], ["p50", p50], ["maximum", max]].map(([label, values]) => ({ label, isHidden: true, points: points(values) })),
        hooks: { drawAxes: [paint], draw: [verticals(marks)], setCursor: [point, follow] },
        caption: `Heat map of ${columns} columns of ${width}: the darker a cell, the more messages arrived then with that response time `
          + "(in a dark scheme, the brighter).",
      });
      figure.querySelector(".chart").after(cell);
      return figure;
    };
    const maps = all.filter((series) => series.cells.length).map(map);

    const ofSeries = (kinds) => all.flatMap((series) => kinds.map(([label, field], dash) =>
      ({ run: series.run, dash, label: named(series.run, label), points: points(series[field]) })));
    const panel = (title, y, kinds, caption) => {
      const lines = ofSeries(kinds).filter((line) => line.points.some(([, value]) => value));
      return chart({ ...shared, title, y, caption, lines, height: 200, hooks: { draw: [verticals(marks)], setCursor: [follow] } });
    };
    const fansOut = all.some(({ run }) => runs[run].record.broadcast);
    const received = ["received", "received_per_s"];
    const rates = [["sent", "sent_per_s"], ["target", "target_per_s"]];
    const panels = [
      panel("Target, sent and received rate", axes.rate, fansOut ? rates : [received, ...rates], "Messages due by the rate, sent and received, per second."),
      fansOut && panel("Deliveries", axes.rate, [received], "Messages that arrived at subscribers, per second."),
      panel("Open connections", { ...axes.number, label: "open" }, [["open", "open"]], "Connections open at the end of each column."),
      panel("Connections opened and closed, and errors", { ...axes.number, label: "events" }, [["opened", "opened"], ["closed", "closed"], ["errors", "errors"]],
        `Connections that opened and closed, and errors, in each ${width}.`),
      panel("CPU of the server", axes.cores, [["CPU", "cpu_cores"]], "CPU time of the server (user and system) divided by elapsed time: 1 is one core."),
      panel("Memory of the server", axes.bytes, [["memory", "rss_bytes"]], "Resident memory of the server."),
    ].filter(Boolean);

    const grid = maps.length > 1 ? [element("div", { class: "maps" }, ...maps)] : maps;
    return [...grid, ...panels, note(marks.length ? "Dashed vertical lines mark changes of the rate." : ""),
      element("div", { class: "readout" }, element("label", {}, "Time ", slider), values)];
  };

  // Tables.

  const comparisons = () => data.comparisons.flatMap(({ comparison, sides, table: rows, verdicts }) => [
    table(sides.join("; "), rows), ...verdicts.map((verdict) => element("p", {}, `${verdict}.`)),
    element("ul", { class: "caption" }, ...[...comparison.differences, ...comparison.warnings].map((warning) => element("li", {}, warning))),
  ]);

  const notes = () => {
    if (!data.notes.length) return element("p", {}, "No warnings.");
    return element("ul", {}, ...data.notes.map(({ weight, run, text }) => element("li", { class: weight },
      element("span", { class: "tag" }, weight === "warning" ? "Warning" : "Note"), ...(run ? [" ", element("b", {}, `${run}:`)] : []), ` ${text}`)));
  };

  const summary = () => {
    const names = ["p50", "p90", "p99", "p99.9", "max"];
    const base = runs[0]?.record;
    const row = ({ name, record, latencies }) => {
      const beside = (of) => (several && of(base) > 0 ? ` (${(100 * (of(record) / of(base) - 1)).toFixed(1)} %)`.replace(/\((?=\d)/, "(+") : "");
      const response = latencies.rows.find(([label]) => label === "response");
      const times = names.map((quantile) => (response ? response[latencies.head.indexOf(quantile)] : "–")
        + (response && ["p50", "p99"].includes(quantile) ? beside((of) => of.response_ns[quantile]) : ""));
      const cpu = record.server?.cpu_ns_per_message;
      return [name, number(record.messages), number(Math.floor(record.messages_per_s)) + beside((of) => of.messages_per_s),
        `${bytes(record.bytes_per_s)}/s`, ...times, cpu ? duration(Math.floor(cpu)) : "–"];
    };
    return { head: ["run", "messages", "messages/s", "payload", ...names, "server CPU per message"], rows: runs.map(row), numbers: { start: 1, end: 10 } };
  };

  // Thresholds, and the goals of --until as the terminal tells them.
  const judged = () => {
    const rows = runs.flatMap(({ name, record, seen, parts }) => {
      const until = parts.find(({ lines }) => lines?.[0] === "until")?.lines[1] ?? [];
      return [
        ...(record.fail_if ?? []).map(({ expression, failed }, at) => [name, `--fail-if ${expression}`, failed ? "failed" : "passed", seen[at]]),
        ...(record.aborted_by ? [[name, `--abort-if ${record.aborted_by}`, "failed", "it ended the run"]] : []),
        ...(record.until?.goals ?? []).map(({ expression, reached }, at) =>
          [name, `--until ${expression}`, reached ? "reached" : "not reached", until[at].split(": ").slice(1).join(": ")]),
      ];
    });
    return { head: ["run", "goal", "result", "seen"], rows };
  };

  // What the terminal says of each run.
  const figures = () => {
    const lines = runs.map(({ headline, throughput: rate, parts }) => {
      const found = new Map([["load", headline], ["throughput", rate]]);
      for (const { lines: part } of parts) {
        if (part) found.set(part[0], [...(found.has(part[0]) ? [found.get(part[0])] : []), ...part[1]].join("\n"));
      }
      return found;
    });
    const labels = [...new Set(lines.flatMap((found) => [...found.keys()]))];
    const tables = runs.flatMap(({ name, parts }) => parts.map(({ table: part }) => part && table(`${name}: ${part.name}`, part.table)));
    return [tableOfRuns("What the summary of each run says", labels.map((label) => [label, (at) => lines[at].get(label) ?? "–"])), ...tables];
  };

  const listed = (words) => (words?.length ? words.join(" ") : "–");
  const environment = () => tableOfRuns("Machine, time and program", [
    ["target", (r) => r.target], ["started", (r) => r.started_at], ["measured", (r) => `${r.duration_s.toFixed(2)} s`],
    ["processor", (r) => r.environment.cpu], ["CPUs", (r) => r.environment.cpus], ["kernel", (r) => r.environment.kernel],
    ["driver", (r) => `${r.environment.driver} (${listed(r.environment.features)})`],
    ["unavailable features", (r) => listed(r.environment.degraded)],
    ["echoring", ({ environment: of }) => `${of.version}${of.commit ? ` at ${of.commit}` : ""}${of.optimized ? "" : ", not optimised"}`],
    ["generator busy", (r) => `${(100 * r.generator.cpu_share).toFixed(0)} %`],
  ].map(([label, of]) => [label, (at) => of(runs[at].record)]));

  // Every field of the configurations that says something, so that new ones are included.
  const configuration = () => {
    const isNothing = (value) => value === null || value === undefined || (Array.isArray(value) && !value.length);
    const shown = (value) => (isNothing(value) ? "–" : typeof value === "string" ? value : JSON.stringify(value));
    const all = [...new Set(runs.flatMap((run) => Object.keys(run.record.config)))];
    const fields = all.filter((field) => !runs.every((run) => isNothing(run.record.config[field])));
    return tableOfRuns("Settings, defaults included", fields.map((field) => [field, (at) => shown(runs[at].record.config[field])]));
  };

  // The page: first the chart that answers the question of these runs.

  const SECTIONS = {
    knee: ["Latency by rate", () => [knee(), ...runs.map(({ name, search }) => search && table(`${name}: ${search[0]}`, search[1]))]],
    herd: ["Connections after the cut", () => [herd()]],
    "latency-over-time": ["Latency over time", () => [latencyOverTime()]],
    percentiles: ["Latency by percentile", () => [percentiles(),
      ...runs.flatMap(({ name, latencies, chance }) => [table(several ? `Percentiles of ${name}` : "Percentiles", latencies), note(chance)])]],
    throughput: ["Throughput over time", () => (data.timeline?.runs.length === runs.length ? [] : [throughput()])],
  };
  const has = (test) => runs.some(({ record }) => test(record));
  const first = has((r) => r.search) ? "knee" : has((r) => r.storm) ? "herd" : has((r) => r.stages?.length > 1) ? "latency-over-time" : "percentiles";
  const show = (id) => section(id, SECTIONS[id][0], SECTIONS[id][1]());

  const warnings = data.notes.filter(({ weight }) => weight === "warning").length;
  if (warnings) {
    const link = element("a", { href: "#notes" }, warnings === 1 ? "1 warning" : `${warnings} warnings`);
    main.append(element("p", { class: "banner" }, link, " about these figures"));
  }
  section("comparison", "Comparison", differences(), pairs(), comparisons());
  if (runs.length) show(first);
  section("split", "Parts of the response time", split());
  section("goals", "Goals", goals(), table("Thresholds and goals", judged()));
  section("notes", "Notes", notes());
  section("summary", "Summary", table("Throughput, and response times from the intended send", summary()),
    several && !data.comparisons.length && element("p", {}, "Percentages are differences from the first run. ", element("code", {}, "echoring compare"),
      " tells whether they are more than chance."));
  section("timeline", "Timeline", timeline());
  Object.keys(SECTIONS).filter((id) => id !== first).forEach(show);
  section("figures", "Figures", figures());
  section("environment", "Environment", environment());
  section("configuration", "Configuration", configuration());

  draw();
  // Also before the page is printed, in the light scheme.
  matchMedia("screen and (prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = main.clientWidth;
  new ResizeObserver(() => {
    if (main.clientWidth === width) return;
    width = main.clientWidth;
    draw();
  }).observe(main);
})();
