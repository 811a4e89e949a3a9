"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Charts carry no colours of text and grid: the page knows its own.
  const themed = (layout) => {
    const axis = { gridcolor: color("--grid"), zerolinecolor: color("--grid"), linecolor: color("--grid") };
    const dressed = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { color: color("--soft"), family: color("--sans"), size: 12 } };
    for (const name of ["xaxis", "yaxis"]) {
      if (layout[name]) dressed[name] = { ...axis, ...layout[name] };
    }
    if (layout.scene) {
      dressed.scene = { ...layout.scene };
      for (const name of ["xaxis", "yaxis", "zaxis"]) {
        dressed.scene[name] = { ...axis, showbackground: false, showspikes: false, nticks: 5, ...layout.scene[name] };
      }
    }
    return dressed;
  };

  const charts = [];
  const draw = () => {
    for (const { target, spec } of charts) {
      try {
        Plotly.react(target, spec.data, themed(spec.layout), { responsive: true, displayModeBar: false });
      } catch (error) {
        target.textContent = "This browser cannot draw the chart.";
      }
    }
  };

  // The two clouds of a scene turn together, so that they can be compared.
  const link = (one, other) => {
    one.on("plotly_relayout", (change) => {
      const camera = change["scene.camera"];
      if (!camera || one.dataset.following) return;
      other.dataset.following = "yes";
      Plotly.relayout(other, { "scene.camera": camera }).then(() => { delete other.dataset.following; });
    });
  };

  if (window.Plotly) {
    for (const source of document.querySelectorAll("script[data-chart]")) {
      charts.push({ target: document.getElementById(source.dataset.chart), spec: JSON.parse(source.textContent) });
    }
    draw();
    dark.addEventListener("change", draw);
    for (const { target } of charts) {
      const partner = target.id.endsWith("-fp32") && document.getElementById(target.id.replace("-fp32", "-quantized"));
      if (partner && target.on && partner.on) { link(target, partner); link(partner, target); }
    }
  }

  // Tooltips near an edge move inwards.
  for (const cell of document.querySelectorAll(".cell")) {
    const place = () => {
      const tip = cell.querySelector(".tip");
      tip.style.setProperty("--shift", "0px");
      const box = tip.getBoundingClientRect();
      const shift = Math.max(8 - box.left, 0) - Math.max(box.right - (window.innerWidth - 8), 0);
      tip.style.setProperty("--shift", `${shift}px`);
    };
    cell.addEventListener("mouseenter", place);
    cell.addEventListener("focus", place);
  }
})();
