// What the report does in the browser: the table of trials, and downloads. Charts are static SVG.
"use strict";
(function () {
  const table = JSON.parse(document.getElementById("table-data").textContent);
  const PAGE_ROWS = 25;

  // ---- table of trials ---------------------------------------------------------------------------------------
  const state = { sort: -1, falling: false, page: 0, text: "", chosen: {}, open: new Set(), shown: [] };
  const searchable = new Map();

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    made.append(...children); // text nodes only: nothing from the data is ever read as markup
    return made;
  }

  function shownValue(value, kind) {
    if (value === null || value === undefined) return "";
    if (kind === "percent") return (100 * value).toFixed(2) + " %";
    if (kind === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
    return String(value);
  }

  function searchText(row) {
    if (!searchable.has(row)) {
      const details = row[table.columns.length + 1];
      const cells = table.columns.map((column, i) => shownValue(row[i], column.kind));
      searchable.set(row, [...cells, ...Object.values(details)].join(" ").toLowerCase());
    }
    return searchable.get(row);
  }

  function isWanted(row) {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    return Object.entries(state.chosen).every(([i, choice]) => !choice || String(row[i]) === choice)
      && words.every((word) => searchText(row).includes(word));
  }

  function selectRows() {
    state.shown = table.rows.filter(isWanted);
    if (state.sort < 0) return;
    const i = state.sort, sign = state.falling ? -1 : 1;
    state.shown.sort((a, b) => {
      if (a[i] === null || b[i] === null) return (a[i] === null) - (b[i] === null); // empty cells last, both ways
      return sign * (typeof a[i] === "string" ? a[i].localeCompare(b[i]) : a[i] - b[i]);
    });
  }

  function drawTable() {
    const body = document.querySelector(".trials tbody");
    const pages = Math.max(1, Math.ceil(state.shown.length / PAGE_ROWS));
    state.page = Math.min(state.page, pages - 1);
    const first = state.page * PAGE_ROWS;
    const rows = state.shown.slice(first, first + PAGE_ROWS);
    body.replaceChildren(...rows.flatMap((row) => (state.open.has(row) ? [drawRow(row), drawDetail(row)] : [drawRow(row)])));
    const range = rows.length ? `, ${first + 1} to ${first + rows.length} shown` : "";
    document.querySelector(".count").textContent = `${state.shown.length} of ${table.rows.length} trials${range}`;
    drawPager(pages);
    document.querySelectorAll(".trials th[data-column]").forEach((head) => {
      const here = Number(head.dataset.column) === state.sort;
      head.setAttribute("aria-sort", here ? (state.falling ? "descending" : "ascending") : "none");
    });
  }

  function drawRow(row) {
    const open = state.open.has(row);
    const name = row[table.columns.length + 1].trial || "";
    const button = element("button", { type: "button", class: "open", "aria-expanded": String(open),
      "aria-label": `Configuration of trial ${name}` }, open ? "−" : "+");
    button.addEventListener("click", () => {
      state.open.has(row) ? state.open.delete(row) : state.open.add(row);
      drawTable();
      [...document.querySelectorAll(".trials .open")].find((b) => b.getAttribute("aria-label") === button.getAttribute("aria-label"))?.focus();
    });
    const status = table.columns.findIndex((column) => column.key === "status");
    const cells = table.columns.map((column, i) =>
      element("td", { class: column.kind === "text" ? "" : "number" }, shownValue(row[i], column.kind)));
    return element("tr", { class: row[status] === "done" ? "" : "lost" }, element("td", {}, button), ...cells);
  }

  function drawDetail(row) {
    const own = table.configs[row[table.columns.length]] || {};
    const details = { ...row[table.columns.length + 1] };
    const cell = element("td", { colspan: table.columns.length + 1 });
    if (details.error) cell.append(element("p", { class: "error" }, details.error));
    delete details.error;
    const settings = { ...table.base, ...own };
    const entries = [...Object.entries(details).map(([k, v]) => [k, v, false]),
      ...Object.entries(settings).map(([k, v]) => [k, v, k in own])];
    cell.append(element("dl", { class: "settings" }, ...entries.map(([key, value, isOwn]) =>
      element("div", { class: isOwn ? "own" : "" }, element("dt", {}, key), element("dd", {}, text(value))))));
    return element("tr", { class: "detail" }, cell);
  }

  function text(value) {
    return typeof value === "string" ? value : JSON.stringify(value);
  }

  function drawPager(pages) {
    const pager = document.querySelector(".pages");
    const turn = (label, by, enabled) => {
      const button = element("button", { type: "button" }, label);
      button.disabled = !enabled;
      button.addEventListener("click", () => {
        state.page += by;
        drawTable();
        const again = [...pager.querySelectorAll("button")].find((b) => b.textContent === label && !b.disabled);
        (again || pager.querySelector("button:not(:disabled)"))?.focus();
      });
      return button;
    };
    pager.replaceChildren();
    if (pages > 1) {
      pager.append(turn("Previous", -1, state.page > 0), `page ${state.page + 1} of ${pages}`,
        turn("Next", 1, state.page < pages - 1));
    }
  }

  function startTable() {
    const head = document.querySelector(".trials thead");
    if (!head) return;
    const titles = table.columns.map((column, i) => {
      const button = element("button", { type: "button" }, column.heading);
      button.addEventListener("click", () => sortBy(i));
      return element("th", { scope: "col", "data-column": i, "aria-sort": "none",
        class: column.kind === "text" ? "" : "number" }, button);
    });
    const corner = element("th", { scope: "col" });
    corner.setAttribute("aria-label", "configuration");
    head.append(element("tr", {}, corner, ...titles));
    startFilters();
    selectRows();
    drawTable();
  }

  function sortBy(i) {
    // Numbers start with the largest: the first click on an accuracy shows the best trials.
    const firstFalling = table.columns[i].kind !== "text";
    state.falling = state.sort === i ? !state.falling : firstFalling;
    state.sort = i;
    state.page = 0;
    selectRows();
    drawTable();
  }

  function startFilters() {
    const form = document.querySelector(".filters");
    const changed = () => { state.page = 0; selectRows(); drawTable(); };
    form.addEventListener("submit", (event) => event.preventDefault());
    const search = element("input", { type: "search", placeholder: "words in any column" });
    search.addEventListener("input", () => { state.text = search.value; changed(); });
    form.append(element("label", { class: "search" }, "search", search));
    table.columns.forEach((column, i) => {
      if (!column.choices.length) return;
      const select = element("select", {}, element("option", { value: "" }, "all"),
        ...column.choices.map((choice) => element("option", { value: choice }, choice)));
      select.addEventListener("change", () => { state.chosen[i] = select.value; changed(); });
      form.append(element("label", {}, column.heading, select));
    });
  }

  // ---- downloads: browsers refuse long data addresses, so they become files in memory --------------------------
  function startDownloads() {
    document.querySelectorAll("a[download]").forEach((link) => link.addEventListener("click", () => {
      const [, kind, content] = /^data:([^;,]*)[^,]*,(.*)$/s.exec(link.href) || [];
      if (content === undefined) return; // made into a file before
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      link.href = URL.createObjectURL(new Blob([bytes], { type: kind }));
    }));
  }

  startTable();
  startDownloads();
})();
