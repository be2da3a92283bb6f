// Draws the plots of a report, follows light and dark, and sorts and filters the table of the fleet.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const by = (name) => document.getElementById(name);
  const remembered = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const remember = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a file may have none */ } };

  // A file of plotly.js, compressed; the policy of the page knows its hash.
  async function library() {
    const packed = Uint8Array.from(atob(by("library").textContent), (char) => char.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    if (!window.Plotly) throw new Error("plotly.js did not start");
  }

  const figures = JSON.parse(by("figures").textContent);
  const drawn = new Set();
  const small = matchMedia("(max-width: 44rem)");
  const coarse = matchMedia("(pointer: coarse)");
  const printing = matchMedia("print");
  let axis = "time";

  // Values of CSS variables, as colours that plotly.js can read.
  let colours = new Map();
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  function colour(name) {
    if (!colours.has(name)) {
      probe.style.color = `var(${name})`;
      colours.set(name, getComputedStyle(probe).color);
    }
    return colours.get(name);
  }

  // A figure with its colours and its axis chosen.
  function chosen(value) {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? colour(name[1]) : value;
    }
    if (Array.isArray(value)) return value.map(chosen);
    if (value && typeof value === "object") {
      if ("time" in value && "answers" in value) return chosen(value[axis]);
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, chosen(inner)]));
    }
    return value;
  }

  function dressed(figure, width) {
    const { data, layout, height } = chosen(figure);
    const font = getComputedStyle(document.body).fontFamily;
    const line = colour("--line");
    const narrow = small.matches || printing.matches;
    const base = {
      automargin: true, gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, zeroline: false,
      fixedrange: coarse.matches,
    };
    const shared = {
      font: { family: font, size: narrow ? 11 : 12.5, color: colour("--muted") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: narrow ? 52 : 64, r: 12, t: 14, b: 40 }, hovermode: "closest",
      hoverlabel: { bgcolor: colour("--card"), bordercolor: line, font: { color: colour("--ink"), family: font } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: colour("--ink") } },
      dragmode: coarse.matches ? false : "zoom", height: height[narrow ? 1 : 0], width: width,
    };
    const out = { ...shared, ...layout };
    for (const key of Object.keys(out).filter((name) => /^[xy]axis\d*$/.test(name))) {
      out[key] = { ...base, ...out[key], title: { standoff: 8, ...out[key].title } };
    }
    return [data, out];
  }

  const settings = {
    displaylogo: false, responsive: false, doubleClick: "reset", showTips: false, displayModeBar: false,
  };
  function draw(name, width) {
    const place = by(name);
    const room = width || place.clientWidth;
    if (!room) return;
    drawn.add(name);
    Plotly.react(place, ...dressed(figures[name], room), settings);
  }
  function redraw() {
    colours = new Map();
    for (const name of drawn) draw(name);
  }

  function prints(on) {
    colours = new Map();
    for (const name of Object.keys(figures)) {
      const half = by(name).closest(".narrow");
      draw(name, on ? (half ? 320 : 680) : 0);
    }
  }

  function controls() {
    for (const input of document.querySelectorAll(".controls input")) {
      const name = input.name;
      if (remembered(`edgecl-report-${name}`) === input.value) input.checked = true;
      input.addEventListener("change", () => {
        remember(`edgecl-report-${name}`, input.value);
        choose();
        if (window.Plotly) redraw();
      });
    }
    choose();
  }
  function choose() {
    const theme = document.querySelector("input[name=theme]:checked").value;
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    const way = document.querySelector("input[name=axis]:checked");
    axis = way ? way.value : "time";
  }

  function number(text) {
    const found = /-?\d[\d.]*/.exec(text.replaceAll("\u202f", "").replace("−", "-"));
    return found ? Number(found[0]) : -Infinity;
  }
  function sorts(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" || (!head.hasAttribute("aria-sort") && head.classList.contains("n"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      const text = (row) => row.cells[place].textContent;
      const order = head.classList.contains("n")
        ? (one, other) => number(text(one)) - number(text(other))
        : (one, other) => text(one).localeCompare(text(other), undefined, { numeric: true });
      rows.sort((one, other) => (down ? -order(one, other) : order(one, other)));
      const most = rows.filter((row) => !row.classList.contains("more")).length;
      rows.forEach((row, at) => row.classList.toggle("more", at >= most));
      table.tBodies[0].append(...rows);
    }));
  }
  function tools() {
    for (const table of document.querySelectorAll("table.sortable")) sorts(table);
    const fleet = by("fleet-table"), all = by("fleet-all"), search = by("fleet-search");
    if (all) {
      fleet.classList.add("folded");
      all.addEventListener("click", () => {
        const folded = fleet.classList.toggle("folded");
        all.setAttribute("aria-expanded", String(!folded));
        all.textContent = folded ? all.dataset.more : all.dataset.fewer;
      });
    }
    if (search) {
      search.addEventListener("input", () => {
        const wanted = search.value.trim().toLowerCase();
        fleet.classList.toggle("folded", !wanted && !!all && all.getAttribute("aria-expanded") !== "true");
        for (const row of fleet.querySelectorAll("tbody tr")) {
          row.classList.toggle("away", !!wanted && !row.textContent.toLowerCase().includes(wanted));
        }
      });
    }
  }

  async function start() {
    controls();
    tools();
    if (!Object.keys(figures).length) return;
    await library();
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting && !drawn.has(entry.target.id)) draw(entry.target.id);
      }
    }, { rootMargin: "600px" });
    for (const name of Object.keys(figures)) seen.observe(by(name));
    const idle = window.requestIdleCallback || ((work) => setTimeout(work, 50));
    const rest = Object.keys(figures);
    const next = () => {
      while (rest.length && drawn.has(rest[0])) rest.shift();
      if (rest.length) { draw(rest.shift()); idle(next); } else { root.dataset.plots = "drawn"; }
    };
    idle(next);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    printing.addEventListener("change", (event) => prints(event.matches));
    let width = innerWidth, later = 0;
    addEventListener("resize", () => {
      if (innerWidth === width || printing.matches) return;
      width = innerWidth;
      clearTimeout(later);
      later = setTimeout(redraw, 120);
    });
  }
  start().catch((error) => {
    root.classList.add("failed");
    root.dataset.plots = "failed";
    console.warn(`no plots: ${error.message}`);
  });
})();
