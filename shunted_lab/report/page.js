"use strict";
// Tables that are sorted, filtered and reduced; what was chosen stays in the address. Values of figures on hover and tap.

const MARK = "#view=";

function numberOf(text) {  // the first number of a cell; a cell without one comes last
  const found = text.replace(/\u2212/g, "-").replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?/);
  return found ? parseFloat(found[0]) : NaN;
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text || "";
  return made;
}

class Results {
  constructor(table, start) {
    this.table = table;
    this.body = table.tBodies[0];
    this.rows = [...this.body.rows];
    this.heads = [...table.tHead.rows[0].cells];
    this.state = Object.assign({ sort: null, down: false, find: "", columns: [], variants: [] }, start);
    this.heads.forEach((head, column) => {
      const button = element("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => this.change(this.sorting(column)));
    });
    this.tools();
    this.show();
  }

  sorting(column) {  // the first click brings large numbers to the top, the third the order of the file
    const first = column > 0;
    if (this.state.sort !== column) return { sort: column, down: first };
    return this.state.down === first ? { down: !first } : { sort: null, down: false };
  }

  tools() {
    const tools = element("div");
    tools.className = "tools";
    this.find = element("input");
    Object.assign(this.find, { type: "search", placeholder: "filter variants", value: this.state.find });
    this.find.setAttribute("aria-label", "filter variants");
    this.find.addEventListener("input", () => this.change({ find: this.find.value }));
    tools.append(this.find);
    const columns = this.heads.map((head) => head.textContent);
    tools.append(this.choices("columns", columns.map((name, i) => [i, name]).slice(1)));
    tools.append(this.choices("variants", this.rows.map((row, i) => [i, row.cells[0].textContent])));
    this.table.parentElement.before(tools);
  }

  choices(kind, named) {
    const details = element("details");
    details.append(element("summary", kind));
    const list = element("div");
    list.className = "choices";
    for (const [number, name] of named) {
      const label = element("label"), box = element("input");
      Object.assign(box, { type: "checkbox", checked: !this.state[kind].includes(number) });
      box.addEventListener("change", () => {
        const others = this.state[kind].filter((hidden) => hidden !== number);
        this.change({ [kind]: box.checked ? others : [...others, number] });
      });
      label.append(box, " " + name);
      list.append(label);
    }
    details.append(list);
    return details;
  }

  change(what) {
    Object.assign(this.state, what);
    this.show();
    remember();
  }

  show() {
    const { sort, down, find, columns, variants } = this.state;
    let order = this.rows;
    if (sort !== null) {
      const keys = new Map(this.rows.map((row) => [row, row.cells[sort].textContent.trim()]));
      const compare = (a, b) => {
        const [x, y] = [keys.get(a), keys.get(b)], [m, n] = [numberOf(x), numberOf(y)];
        if (isNaN(m) && isNaN(n)) return sort === 0 ? (down ? -1 : 1) * x.localeCompare(y) : 0;
        return isNaN(m) ? 1 : isNaN(n) ? -1 : down ? n - m : m - n;
      };
      order = [...this.rows].sort(compare);
    }
    this.body.append(...order);
    const words = find.toLowerCase();
    this.rows.forEach((row, i) => {
      row.hidden = variants.includes(i) || !row.cells[0].textContent.toLowerCase().includes(words);
      [...row.cells].forEach((cell, column) => { cell.hidden = columns.includes(column); });
    });
    this.heads.forEach((head, column) => {
      head.hidden = columns.includes(column);
      head.setAttribute("aria-sort", sort !== column ? "none" : down ? "descending" : "ascending");
    });
  }
}

let tables = [];

function remember() {
  history.replaceState(null, "", MARK + encodeURIComponent(JSON.stringify(tables.map((table) => table.state))));
}

function remembered() {
  try {
    return location.hash.startsWith(MARK) ? JSON.parse(decodeURIComponent(location.hash.slice(MARK.length))) : [];
  } catch (error) {
    return [];  // a link that was cut: the table as it is
  }
}

function tips() {
  const box = element("div");
  box.id = "tip";
  box.setAttribute("role", "status");
  box.hidden = true;
  document.body.append(box);
  for (const part of document.querySelectorAll(".tip")) {
    const title = part.querySelector("title"), text = title.textContent;
    part.setAttribute("aria-label", text);
    title.remove();  // else the browser shows it, too
    const show = (event) => {
      const place = part.getBoundingClientRect();
      const x = event.clientX === undefined ? place.x + place.width / 2 : event.clientX;
      const y = event.clientY === undefined ? place.y + place.height / 2 : event.clientY;
      box.textContent = text.replace(/: /, ":\n").replace(/, (?=\D)/g, "\n");
      box.hidden = false;
      const left = Math.min(x + 12, document.documentElement.clientWidth - box.offsetWidth - 8);
      box.style.left = Math.max(4, left) + scrollX + "px";
      box.style.top = y + scrollY + 14 + "px";
    };
    for (const name of ["pointerenter", "pointermove", "click", "focus"]) part.addEventListener(name, show);
    for (const name of ["pointerleave", "blur"]) part.addEventListener(name, () => { box.hidden = true; });
  }
}

const start = remembered();
tables = [...document.querySelectorAll("table.results")].map((table, i) => new Results(table, start[i]));
tips();
