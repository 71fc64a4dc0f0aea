"use strict";
// A threshold to drag: passages found against false alarms. The figures come with the page, one set a threshold.
page.widgets.threshold = async (root, data) => {
  const Plotly = await page.plotly();
  const last = data.thresholds.length - 1;
  const chart = page.make("div", { class: "chart short" });
  const said = page.make("p", { class: "said", "aria-live": "polite" });
  const slider = page.make("input", {
    type: "range", min: 0, max: last, step: 1, value: data.chosen ?? Math.floor(last / 2), "aria-label": "Threshold",
    oninput: () => show(Number(slider.value)),
  });
  const reset = page.make("button", { type: "button", onclick: () => show(data.chosen) }, "Chosen threshold");
  reset.hidden = data.chosen === null;
  root.append(chart, page.make("div", { class: "controls" }, slider, reset), said);
  const share = data.hits.map((hits) => (data.passages ? hits / data.passages : null));
  const rate = data.false_alarms.map((alarms) => alarms / data.minutes);

  function draw() {
    const muted = page.colour("muted"), line = page.colour("line");
    const axis = { color: muted, gridcolor: line, zerolinecolor: line, fixedrange: true };
    const text = data.thresholds.map((threshold) => `threshold ${threshold.toPrecision(3)}`);
    const hover = "%{text}<br>%{y:.1%} of the passages<br>%{x:.2f} false alarms a minute<extra></extra>";
    const traces = [
      { x: rate, y: share, text, hovertemplate: hover, mode: "lines+markers", line: { color: page.colour("accent") },
        marker: { size: 5 } },
      { x: [], y: [], mode: "markers", hoverinfo: "skip",
        marker: { size: 15, color: page.colour("accent"), line: { color: page.colour("paper"), width: 2 } } },
    ];
    const layout = {
      height: 300, margin: { l: 62, r: 12, t: 8, b: 46 }, showlegend: false, dragmode: false,
      paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: page.colour("ink"), size: 13 },
      xaxis: { ...axis, title: { text: "false alarms a minute" }, rangemode: "tozero" },
      yaxis: { ...axis, title: { text: "passages found" }, range: [0, 1.04], tickformat: ".0%" },
    };
    Plotly.react(chart, traces, layout, { displayModeBar: false, responsive: true });
    show(Number(slider.value));
  }

  function show(index) {
    slider.value = index;
    Plotly.restyle(chart, { x: [[rate[index]]], y: [[share[index]]] }, [1]);
    const threshold = data.thresholds[index];
    said.textContent =
      `At a probability of ${threshold.toPrecision(3)}${index === data.chosen ? " (the chosen threshold)" : ""}: ` +
      `${data.hits[index]} of ${data.passages} passages found, ` +
      `${data.false_alarms[index]} false alarms in ${data.minutes.toFixed(1)} minutes of flight ` +
      `(${rate[index].toFixed(2)} a minute).`;
    document.dispatchEvent(new CustomEvent("threshold", { detail: threshold }));
  }

  page.onTheme(draw);
  chart.addEventListener("keydown", (event) => event.stopPropagation());
  draw();
  chart.on("plotly_click", (event) => show(event.points[0].pointNumber));
};
