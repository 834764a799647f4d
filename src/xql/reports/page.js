"use strict";
(() => {
  // Text and lines take the style sheet's variables, so that dark mode and print change them.
  const text = { labelColor: "var(--muted)", titleColor: "var(--muted)" };
  const config = {
    background: null,
    font: 'system-ui, -apple-system, "Segoe UI", sans-serif',
    view: { stroke: null },
    axis: {
      ...text, gridColor: "var(--grid)", domainColor: "var(--edge)", tickColor: "var(--edge)",
      labelFontSize: 11, titleFontSize: 11.5, titleFontWeight: "normal", titlePadding: 7,
      labelFlush: false, labelOverlap: true,
    },
    axisX: { grid: false },
    axisY: { domain: false, ticks: false },
    legend: { ...text, labelFontSize: 11, symbolStrokeWidth: 2, symbolSize: 120 },
    text: { fontSize: 11 },
  };
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const views = new Map();

  const rowsOf = (parts) => parts.flatMap(({ shared, columns }) => {
    const names = Object.keys(columns);
    return columns[names[0]].map((_, place) => {
      const row = { ...shared };
      for (const name of names) row[name] = columns[name][place];
      return row;
    });
  });

  const chosen = () => {
    const boxes = [...document.querySelectorAll("#keys input[value]")];
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    const seeds = document.querySelector("#keys #seeds");
    return { off, seeds: seeds === null || seeds.checked };
  };

  const show = async (view, every) => {
    const { off, seeds } = chosen();
    view.signal("shown", every.filter((key) => !off.has(key))).signal("seeds", seeds);
    await view.runAsync();
  };

  const draw = async (place) => {
    if (views.has(place)) return;
    views.set(place, null);
    const { spec, data } = figures.find((one) => one.name === place.dataset.figure);
    const every = spec.params.find((one) => one.name === "shown").value;
    try {
      const { view } = await vegaEmbed(place, { ...spec, data: { values: rowsOf(data) } }, {
        actions: false, ast: true, renderer: "svg", config,
        tooltip: { disableDefaultStyle: true },
      });
      views.set(place, { view, every });
      place.parentElement.querySelector(".tools").hidden = false;
      await show(view, every);
    } catch (error) {
      place.textContent = `This figure cannot be drawn (${error.message}).`;
      console.error(error);
    }
  };

  const places = [...document.querySelectorAll(".chart")];
  const visible = (place) => place.closest("details:not([open])") === null;
  const drawAll = async () => {
    for (const place of places.filter(visible)) await draw(place);
    document.documentElement.dataset.drawn = String([...views.values()].filter(Boolean).length);
  };

  const zoom = async (view, factor) => {
    for (const axis of ["x", "y"]) {
      let scale;
      try { scale = view.scale(axis); } catch { continue; }
      if (!scale.invert || scale.bandwidth) continue;
      const range = scale.range();
      const middle = (range[0] + range[1]) / 2, half = (range[1] - range[0]) / 2 / factor;
      const domain = [scale.invert(middle - half), scale.invert(middle + half)];
      try { view.signal(`grid_${axis}`, factor === 0 ? null : domain); } catch { /* no such axis */ }
    }
    await view.runAsync();
  };

  const save = (place) => {
    const drawn = place.querySelector("svg").cloneNode(true);
    const style = getComputedStyle(document.documentElement);
    drawn.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    const plain = drawn.outerHTML.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([plain], { type: "image/svg+xml" }));
    link.download = `${place.dataset.figure}.svg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button === null) return;
    const what = button.dataset.do;
    if (what !== undefined) {
      const place = button.closest("figure").querySelector(".chart");
      const drawn = views.get(place);
      if (!drawn) return;
      if (what === "save") save(place);
      else zoom(drawn.view, { in: 1.5, out: 1 / 1.5, reset: 0 }[what]);
    } else if (button.classList.contains("copy")) {
      navigator.clipboard.writeText(button.previousElementSibling.textContent).then(
        () => { button.textContent = "copied"; }, () => { button.textContent = "not allowed"; });
    } else if (button.id === "every") {
      const boxes = [...document.querySelectorAll("#keys input[value]")];
      const on = boxes.some((box) => !box.checked);
      for (const box of boxes) box.checked = on;
      update();
    }
  });

  const remember = (name, value) => { try { sessionStorage.setItem(name, value); } catch { /* none */ } };
  const recall = (name) => { try { return sessionStorage.getItem(name); } catch { return null; } };

  const update = () => {
    remember(`xql off ${document.title}`, JSON.stringify([...chosen().off]));
    for (const drawn of views.values()) if (drawn) show(drawn.view, drawn.every);
  };

  const keys = document.getElementById("keys");
  if (keys !== null) {
    const off = new Set(JSON.parse(recall(`xql off ${document.title}`) ?? "[]"));
    for (const box of keys.querySelectorAll("input[value]")) box.checked = !off.has(box.value);
    for (const one of keys.querySelectorAll(".swatch")) one.style.background = one.dataset.colour;
    keys.addEventListener("change", update);
    keys.addEventListener("submit", (event) => event.preventDefault());
  }
  if (navigator.clipboard) for (const one of document.querySelectorAll(".copy")) one.hidden = false;
  for (const one of document.querySelectorAll("details")) one.addEventListener("toggle", drawAll);
  window.addEventListener("beforeprint", () => {
    // Nothing can be drawn before the printer starts: what is not drawn stays folded.
    for (const one of document.querySelectorAll("details")) {
      if ([...one.querySelectorAll(".chart")].every((place) => views.get(place))) one.open = true;
    }
  });

  const live = document.getElementById("live");
  if (live !== null) {
    live.checked = recall("xql live") !== "no";
    live.addEventListener("change", () => remember("xql live", live.checked ? "yes" : "no"));
    setInterval(() => { if (live.checked) location.reload(); }, 1000 * Number(live.dataset.seconds));
  }
  drawAll();
})();
