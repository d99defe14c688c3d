// What makes the report's page work. DataTables stands above this in the same script, or is missing, and tables are then
// plain; everything that comes from records is set as text, never as markup.
"use strict";
{
  const byId = (id) => document.getElementById(id);

  const make = (tag, properties = {}, ...children) => {
    const { class: name, ...others } = properties;
    const element = Object.assign(document.createElement(tag), others);
    if (name) element.className = name;
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  const makeSvg = (tag, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const unpack = async (name) => {
    const base64 = byId(`packed-${name}`)?.textContent.trim();
    if (!base64) return {};
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  };

  // Sorting: numbers by size, and cells without a number at the end in either direction.
  const number = (value) => (value === "" || value === null ? NaN : Number(value));
  const ordered = (sign) => (first, second) => {
    const [a, b] = [number(first), number(second)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a === b ? 0 : a < b ? -1 : 1);
  };
  const sorts = "DataTable" in globalThis;
  if (sorts) {
    DataTable.type("measured", { order: { asc: ordered(1), desc: ordered(-1) }, className: "" });
    DataTable.ext.errMode = "throw";
  }
  const bare = { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null };

  const startBoards = () => {
    if (!sorts) return;
    const boards = [...document.querySelectorAll("table.board")].map((table) => {
      const columns = [...table.tHead.rows[0].cells].map((_, i) => (i ? { type: "measured" } : { type: "string" }));
      return new DataTable(table, { columns, order: [], paging: false, info: false, autoWidth: false, layout: bare });
    });
    const filter = byId("model-filter");
    if (!filter) return; // nothing has been measured yet
    const apply = () => {
      boards.forEach((board) => board.column(0).search(filter.value).draw());
      const shown = boards.reduce((sum, board) => sum + board.rows({ search: "applied" }).count(), 0);
      byId("model-count").textContent = filter.value ? `${shown} lines match` : "";
      remember("filter", filter.value);
    };
    filter.addEventListener("input", apply);
    filter.value = recall("filter") ?? "";
    if (filter.value) apply();
  };

  // Keeps what a reader has set when a live page reloads itself.
  const remember = (name, value) => {
    try {
      sessionStorage.setItem(`hedgebench-${name}`, value);
    } catch {
      // a page opened from a file may have no storage
    }
  };
  const recall = (name) => {
    try {
      return sessionStorage.getItem(`hedgebench-${name}`);
    } catch {
      return null;
    }
  };

  const spelled = (value) => (value === null ? "none" : String(value));
  const statusText = (status) => (status === "oom" ? "OOM" : status);

  const startCells = (cells) => {
    const link = (cell) => make("a", { href: `#cell-${cell.id}`, textContent: cell.model });
    if (!sorts) {
      const row = (cell) => [link(cell), cell.task, cell.main, cell.shown, statusText(cell.status), cell.seed, cell.backbone, cell.recipe, cell.scale, cell.notes.length || ""];
      const rows = cells.map((cell) => make("tr", {}, ...row(cell).map((content) => make("td", {}, content))));
      byId("cell-table").append(make("tbody", {}, ...rows));
      return;
    }
    const text = (value, options = {}) => ({
      data: value,
      render: DataTable.render.text(),
      ...options,
    });
    const plain = { columnControl: { target: 1, content: [] } };
    const columns = [
      text("model", {
        render: { _: DataTable.render.text().display, display: (_, __, cell) => link(cell) },
      }),
      text("task"),
      text("main"),
      {
        data: null,
        type: "measured",
        className: "number",
        render: (cell, kind) => (kind === "display" ? cell.shown : cell.value),
        ...plain,
      },
      text((cell) => statusText(cell.status)),
      text("seed"),
      text("backbone"),
      text("recipe"),
      text("scale"),
      { data: (cell) => cell.notes.length || "", className: "number", ...plain },
    ];
    new DataTable("#cell-table", {
      data: cells,
      columns,
      columnControl: [{ target: 1, content: ["search"] }],
      order: [],
      pageLength: 25,
      lengthMenu: [25, 100, 500],
      autoWidth: false,
      layout: { topStart: "search", topEnd: "pageLength", bottomStart: "info", bottomEnd: "paging" },
      language: { search: "Search all columns", emptyTable: "No cells yet.", lengthMenu: "_MENU_ cells a page" },
      stateSave: true,
      stateDuration: -1,
      createdRow: (row, cell) => row.classList.toggle("failed", cell.status !== "ok"),
    });
    const names = [...byId("cell-table").tHead.rows[0].cells].map((heading) => heading.textContent.trim());
    [...byId("cell-table").tHead.rows[1].cells].forEach((place, i) => {
      place.querySelectorAll("input, select").forEach((field) => (field.ariaLabel = `Filter by ${names[i]}`));
    });
  };

  const table = (headings, rows, name = "") => {
    const head = headings && make("thead", {}, make("tr", {}, ...headings.map((text) => make("th", { scope: "col" }, text))));
    const body = make(
      "tbody",
      {},
      ...rows.map(([label, ...values]) =>
        make("tr", {}, make("th", { scope: "row" }, label), ...values.map((value) => make("td", {}, value))),
      ),
    );
    return make("div", { class: "scroll", tabIndex: 0 }, make("table", { class: name }, head, body));
  };

  // Name and value, and softmax's value if it differs.
  const facts = (values, others) => {
    const names = [...new Set([...Object.keys(values), ...Object.keys(others ?? {})])].sort();
    const rows = names.map((name) => {
      const own = spelled(values[name] ?? null);
      const other = others ? spelled(others[name] ?? null) : own;
      return [name, own === other ? own : make("span", {}, make("mark", {}, own), ` softmax: ${other}`)];
    });
    return table(null, rows, "wrap");
  };

  const section = (title, ...content) => (content.length ? [make("h3", {}, title), ...content] : []);

  const chart = (name, lines) => {
    const [width, height, left, bottom, top] = [560, 220, 64, 28, 10];
    const points = lines.flatMap(([, , steps, values]) => steps.map((step, i) => [step, Number(values[i])]));
    const finite = points.filter(([, value]) => Number.isFinite(value));
    const range = (list) => [Math.min(...list), Math.max(...list)];
    const [low, high] = finite.length ? range(finite.map(([, value]) => value)) : [0, 1];
    const [first, last] = range(points.map(([step]) => step));
    const x = (step) => left + ((step - first) / (last - first || 1)) * (width - left - 12);
    const y = (value) => height - bottom - ((value - low) / (high - low || 1)) * (height - bottom - top);
    const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} over steps` });
    for (const part of [0, 0.5, 1]) {
      const value = low + part * (high - low);
      const label = makeSvg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(3));
      svg.append(makeSvg("line", { x1: left, x2: width - 12, y1: y(value), y2: y(value), class: "grid" }), label);
      const step = Math.round(first + part * (last - first));
      svg.append(makeSvg("text", { x: x(step), y: height - 8, "text-anchor": "middle" }, `${step}`));
    }
    lines.forEach(([, split, steps, values], i) => {
      const known = steps.map((step, j) => [step, Number(values[j])]).filter(([, value]) => Number.isFinite(value));
      const path = known.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
      const dots = known.map(([step, value]) => {
        const title = makeSvg("title", {}, `${split} ${name}, step ${step}: ${value}`);
        return makeSvg("g", { class: "mark" }, title, makeSvg("circle", { cx: x(step), cy: y(value), r: known.length > 30 ? 2 : 3 }));
      });
      svg.append(makeSvg("g", { class: `line line${i % 4}` }, makeSvg("polyline", { points: path }), ...dots));
    });
    const key = lines.map(([, split, , , every], i) =>
      make("span", { class: `key key${i % 4}` }, every > 1 ? `${split} (1 of ${every} points)` : split),
    );
    return make("figure", { class: "curve" }, make("figcaption", {}, `${name} over steps: `, ...key), svg);
  };

  const charts = (curves) => {
    const names = [...new Set(curves.map(([name]) => name))];
    return names.map((name) => chart(name, curves.filter(([other]) => other === name)));
  };

  const metricRow = ([name, at, value, stderr, n, unit, higher, status]) => [
    name + (higher === null ? "" : higher ? " ↑" : " ↓"),
    at,
    value === null ? statusText(status) : spelled(value),
    stderr === null ? "" : spelled(stderr),
    unit,
    spelled(n),
  ];

  const isPeer = (cell) => (other) =>
    other.model === "softmax" &&
    other !== cell &&
    ["task", "backbone", "recipe", "scale", "seed", "limit"].every((name) => other[name] === cell[name]);

  const samplesTable = (samples) => {
    const names = [...new Set(samples.flatMap(Object.keys))];
    const rows = samples.map((sample, i) => [`${i + 1}`, ...names.map((name) => sample[name] ?? "")]);
    return table(["", ...names], rows, "wrap samples");
  };

  const cellPage = (cell, cells, shared, curves, samples) => {
    const softmax = cells.find(isPeer(cell));
    const own = (name) => shared[cell[name]];
    const theirs = (name) => softmax && shared[softmax[name]];
    const pairs = (list) => list.map(([name, value]) => [name, value]);
    const timings = Object.entries(cell.timings).map(([phase, seconds]) => [phase, `${seconds} s`]);
    const identity = [
      ["cell", cell.id],
      ["run", cell.run],
      ["seed", spelled(cell.seed)],
      ...(cell.limit === null ? [] : [["partial", `first ${cell.limit} rows`]]),
    ];
    const error = cell.error && [
      make("p", { class: "bad" }, `${cell.error.type}: ${cell.error.message}`),
      ...(cell.error.log_tail ? [make("pre", { tabIndex: 0 }, cell.error.log_tail)] : []),
    ];
    const headings = ["metric", "at", "value", "standard error", "unit", "n"];
    return [
      ...section("Error", ...(error ?? [])),
      ...section("Notes", ...(cell.notes.length ? [make("ul", {}, ...cell.notes.map((note) => make("li", {}, note)))] : [])),
      ...section("Metrics", ...(cell.metrics.length ? [table(headings, cell.metrics.map(metricRow), "metrics")] : [])),
      ...section("Training curves", ...charts(curves[cell.id] ?? [])),
      ...section("Kernel that ran", ...(own("kernels").length ? [table(null, pairs(own("kernels")), "wrap")] : [])),
      ...section("Data", ...(own("data").length ? [table(null, pairs(own("data")), "wrap")] : [])),
      ...section("First predictions", ...(samples[cell.id] ? [samplesTable(samples[cell.id])] : [])),
      ...section("Settings", facts(own("settings"), theirs("settings"))),
      ...section("Environment", facts(own("environment"), theirs("environment"))),
      ...section("Seconds", ...(timings.length ? [table(null, timings, "wrap")] : [])),
      ...section("Cell", table(null, identity, "wrap")),
    ];
  };

  const startPages = ({ cells, shared }) => {
    const dialog = byId("cell-dialog");
    const byCell = new Map(cells.map((cell) => [`#cell-${cell.id}`, cell]));
    let details; // unpacked when the first cell is opened
    const follow = async () => {
      const cell = byCell.get(decodeURIComponent(location.hash));
      if (!cell) {
        if (dialog.open) dialog.close();
        return;
      }
      details ??= Promise.all([unpack("curves"), unpack("samples")]);
      const [curves, samples] = await details;
      const where = [cell.task, cell.backbone, cell.recipe, cell.scale, `seed ${cell.seed}`].join(" · ");
      const status = cell.status === "ok" ? [] : [" · ", make("span", { class: "bad" }, statusText(cell.status))];
      byId("cell-title").replaceChildren(cell.model, make("span", { class: "detail" }, where, ...status));
      byId("cell-body").replaceChildren(...cellPage(cell, cells, shared, curves, samples));
      if (!dialog.open) dialog.showModal();
      dialog.scrollTop = 0;
    };
    dialog.addEventListener("close", () => {
      if (byCell.has(decodeURIComponent(location.hash))) history.replaceState(null, "", location.pathname + location.search);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    byId("cell-close").addEventListener("click", () => dialog.close());
    addEventListener("hashchange", follow);
    return follow();
  };

  // Values of a plot's marks: a mark's title, shown at once and on touch too.
  const startTips = () => {
    const tip = byId("tip");
    const say = (event) => {
      const title = event.target.closest?.(".mark")?.querySelector(":scope > title, :scope > desc");
      tip.hidden = !title;
      if (!title) return;
      tip.textContent = title.textContent;
      if (title.tagName === "title") title.replaceWith(makeSvg("desc", {}, tip.textContent)); // or the browser shows it too
      const host = event.target.closest("dialog") ?? document.body;
      if (tip.parentElement !== host) host.append(tip); // what lies outside an open dialog cannot be seen
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 8))}px`;
      tip.style.top = `${Math.max(4, event.clientY - box.height - 10)}px`;
    };
    document.addEventListener("pointerover", say);
    document.addEventListener("pointerdown", say);
  };

  const startTheme = () => {
    const button = byId("theme");
    const isDark = () => document.documentElement.classList.contains("dark");
    const name = () => (button.textContent = isDark() ? "Light" : "Dark");
    button.addEventListener("click", () => {
      const detail = isDark() ? "light" : "dark";
      document.documentElement.dispatchEvent(new CustomEvent("hedgebench-theme", { detail }));
      name();
    });
    button.hidden = false;
    name();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  };

  // While a run goes on: ask the server which version it has, and load the page again when it has another.
  const startLive = () => {
    const { version, every } = document.body.dataset;
    if (!version) return;
    const say = (text) => (byId("live").textContent = text);
    const ask = async () => {
      try {
        const answer = await fetch("version", { cache: "no-store" });
        if (!answer.ok) throw new Error(await answer.text());
        if ((await answer.text()) !== version) return location.reload();
        say("Live: follows the run.");
      } catch (error) {
        say(`No news, the server does not answer: ${error.message}`);
      }
      setTimeout(ask, Number(every));
    };
    setTimeout(ask, Number(every));
  };

  const start = async () => {
    startTheme();
    startBoards();
    startTips();
    startLive();
    const unpacked = await unpack("cells");
    startCells(unpacked.cells);
    await startPages(unpacked);
    document.documentElement.dataset.ready = "true";
  };
  start();
}
