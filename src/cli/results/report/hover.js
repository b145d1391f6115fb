"use strict";
// Shows the values of the time that is pointed at, in all charts of the timeline. All figures are text already.
(() => {
  const data = JSON.parse(document.getElementById("timeline-data").textContent);
  const section = document.getElementById("timeline");
  const readout = section.querySelector(".readout");
  const slider = readout.querySelector("input");
  const time = readout.querySelector(".time");
  const values = readout.querySelector(".values");
  const columns = data.times.length;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  };

  // A line in each drawing, at the time that is shown.
  const charts = [...section.querySelectorAll("svg[data-plot]")].map((svg) => {
    const [left, right, top, bottom] = svg.dataset.plot.split(" ").map(Number);
    const line = document.createElementNS(svg.namespaceURI, "line");
    line.setAttribute("class", "cursor");
    line.setAttribute("y1", top);
    line.setAttribute("y2", bottom);
    line.setAttribute("visibility", "hidden");
    svg.append(line);
    return { svg, line, left, right, top, bottom };
  });

  // The cell of a heat map at this share of its height, from below.
  const cellAt = (run, column, share) => {
    const { axis, names } = data.rows;
    const power = axis[0] + share * (axis[1] - axis[0]);
    const row = names.findLastIndex(([begin]) => begin <= power);
    if (row < 0) return "";
    const cells = (data.runs.find((other) => other.run === run).cells[column] || []);
    const cell = cells.find(([other]) => other === row);
    return `${names[row][1]}: ${(cell ? cell[1] : 0).toLocaleString("en")} messages`;
  };

  const show = (column, cell) => {
    const at = Math.min(Math.max(column, 0), columns - 1);
    slider.value = at;
    const said = [data.times[at]];
    time.textContent = cell ? `${data.times[at]}, ${cell}` : data.times[at];
    values.replaceChildren(...data.runs.map((run) => {
      const list = element("ul", "", "");
      if (data.runs.length > 1) {
        list.append(element("li", `name r${run.run % 7}`, run.name));
        said.push(run.name);
      }
      data.fields.forEach((field, number) => {
        const value = run.values[at] ? run.values[at][number] : "–";
        const item = element("li", "", "");
        item.append(element("span", "field", field), ` ${value}`);
        list.append(item);
        said.push(`${field} ${value}`);
      });
      return list;
    }));
    slider.setAttribute("aria-valuetext", said.join(", "));
    for (const { line, left, right } of charts) {
      const x = left + ((at + 0.5) / columns) * (right - left);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      line.setAttribute("visibility", "visible");
    }
  };

  for (const { svg, left, right, top, bottom } of charts) {
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const view = svg.viewBox.baseVal;
      const x = ((event.clientX - box.left) / box.width) * view.width;
      const y = ((event.clientY - box.top) / box.height) * view.height;
      if (x < left || x > right) return;
      const column = Math.min(Math.floor(((x - left) / (right - left)) * columns), columns - 1);
      const run = svg.dataset.run;
      const within = run !== undefined && y >= top && y <= bottom;
      show(column, within ? cellAt(Number(run), column, (bottom - y) / (bottom - top)) : "");
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
  }
  slider.addEventListener("input", () => show(Number(slider.value), ""));
  readout.hidden = false;
  time.textContent = "Point at a chart, or move the slider, to see the values of a time.";
})();
