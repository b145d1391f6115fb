// Elements: charts and tables. What a server or its clients say is only ever put into text nodes.

const SHOWN_CHARACTERS_MAX = 80;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Text of a client, shortened. */
function shortened(text) {
  const characters = [...String(text)];
  return characters.length > SHOWN_CHARACTERS_MAX ? characters.slice(0, SHOWN_CHARACTERS_MAX).join("") + "…" : characters.join("");
}

// ---- charts ----

const [CHART_WIDTH, CHART_HEIGHT] = [300, 36];

/** The time that the charts show: what there is, from a minute up. */
const span_of = (points, now) => Math.max(now - points[0].at, WINDOW_MS);

/** The parts of a line without gaps: [x, y] in the chart. A gap is a time without an answer. */
function lines(points, name, now, gap_ms) {
  const span_ms = span_of(points, now);
  const known = points.filter((point) => is_known(point[name]));
  const highest = Math.max(...known.map((point) => point[name]), 0) || 1;
  const place = (point) => [
    CHART_WIDTH * (1 - (now - point.at) / span_ms),
    (CHART_HEIGHT - 2) * (1 - point[name] / highest) + 1,
  ];
  const parts = [];
  let last = -Infinity;
  for (const point of known) {
    if (point.at - last > gap_ms) parts.push([]);
    parts[parts.length - 1].push(place(point));
    last = point.at;
  }
  return parts;
}

/** Draws a figure of the last minutes. The label says in words what the line shows. */
function draw(svg, points, name, show, now, gap_ms) {
  const path = (part) => part.map(([x, y]) => x.toFixed(1) + "," + y.toFixed(1)).join(" ");
  const made = [drawn("line", { class: "floor", x1: 0, x2: CHART_WIDTH, y1: CHART_HEIGHT - 0.5, y2: CHART_HEIGHT - 0.5 })];
  for (const part of lines(points, name, now, gap_ms)) {
    const [first, last] = [part[0][0], part[part.length - 1][0]];
    made.push(drawn("polygon", { class: "area", points: `${first},${CHART_HEIGHT} ${path(part)} ${last},${CHART_HEIGHT}` }));
    made.push(drawn("polyline", { class: "line", points: path(part) }));
  }
  svg.replaceChildren(...made);
  const values = points.map((point) => point[name]).filter(is_known);
  svg.setAttribute("aria-label", values.length === 0 ? "no figures yet" :
    `last ${show_age(span_of(points, now) / 1000)}: ${show(Math.min(...values))} to ${show(Math.max(...values))}, now ${show(values[values.length - 1])}`);
}

/** A figure with its chart. */
class Tile {
  constructor({ name, title, show, unit = "", about = () => "", is_bad = () => false }) {
    Object.assign(this, { name, show, unit, about, is_bad });
    this.root = element("li", undefined, { id: "tile-" + name });
    this.value = element("p");
    this.chart = drawn("svg", {
      class: "spark", role: "img", viewBox: `0 0 ${CHART_WIDTH} ${CHART_HEIGHT}`, preserveAspectRatio: "none",
    });
    this.root.append(element("h3", title), this.value, this.chart);
  }

  update(history, now, gap_ms) {
    const { [this.name]: value } = history.points[history.points.length - 1];
    const about = this.about(history.last());
    this.value.replaceChildren(this.show(value) + (is_known(value) ? this.unit : ""), " ", element("small", about));
    this.root.classList.toggle("warn", this.is_bad(value, history.last()));
    draw(this.chart, history.points, this.name, (shown) => this.show(shown) + this.unit, now, gap_ms);
  }
}

// ---- tables ----

/**
 * A table. A column has a `title`, the text of a row's cell (`show`), and what it sorts by (`key`), if it sorts. The first
 * column is the head of its rows. `sorted_by_server` calls `changed` instead of sorting its rows.
 */
class Table {
  constructor({ id, caption, columns, sort, empty, sorted_by_server = false, changed = () => {} }) {
    Object.assign(this, { columns, sort, empty, sorted_by_server, changed, descending: true, rows: [], is_answered: false });
    this.body = element("tbody", undefined, { role: "rowgroup" });
    this.heads = columns.map((column) => this.head(column));
    const head = element("tr", undefined, { role: "row" });
    head.append(...this.heads);
    const group = element("thead", undefined, { role: "rowgroup" });
    group.append(head);
    this.caption = element("caption", caption);
    this.table = element("table", undefined, { role: "table" });
    this.table.append(this.caption, group, this.body);
    this.none = element("p", empty, { class: "empty" });
    const panel = element("div", undefined, { class: "panel" });
    panel.append(this.table, this.none);
    at(id).replaceChildren(panel);
    this.show();
  }

  head(column) {
    const cell = element("th", undefined, { scope: "col", role: "columnheader" });
    if (column.is_text) cell.className = "text";
    if (column.key === undefined) {
      cell.textContent = column.title;
      return cell;
    }
    const button = element("button", column.title, { type: "button" });
    button.addEventListener("click", () => this.sort_by(column));
    cell.append(button);
    return cell;
  }

  sort_by(column) {
    const same = this.sort === column.title;
    this.descending = same && !this.sorted_by_server ? !this.descending : !column.is_text;
    this.sort = column.title;
    this.changed();
    this.show();
  }

  /** Shows these rows from now on. */
  update(rows) {
    this.rows = rows;
    this.is_answered = true;
    this.show();
  }

  ordered() {
    const column = this.columns.find(({ title }) => title === this.sort);
    if (this.sorted_by_server || column === undefined) return this.rows;
    const sign = this.descending ? -1 : 1;
    const compare = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
    return [...this.rows].sort((one, other) => sign * compare(column.key(one), column.key(other)));
  }

  show() {
    this.heads.forEach((head, index) => {
      const sorted = this.columns[index].title === this.sort && this.columns[index].key !== undefined;
      if (sorted) head.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.body.replaceChildren(...this.ordered().map((row) => this.row(row)));
    this.table.hidden = this.rows.length === 0;
    this.none.hidden = this.rows.length > 0;
    // A stalled shard delays the lists: until then nobody knows that they are empty.
    this.none.textContent = this.is_answered ? this.empty : "No answer yet.";
  }

  row(row) {
    const made = element("tr", undefined, { role: "row" });
    if (row.is_bad) made.className = "bad";
    made.append(...this.columns.map((column, index) => {
      const cell = index === 0
        ? element("th", undefined, { scope: "row", role: "rowheader" })
        : element("td", undefined, { role: "cell", "data-column": column.title });
      if (column.is_text) cell.classList.add("text");
      // Names of clients may be written from right to left.
      cell.append(element("bdi", shortened(column.show(row))));
      return cell;
    }));
    return made;
  }
}
