"use strict";
// A flight to look at: in 3D, from the camera, and over time, all at the moment that the slider names.
page.widgets.flight = async (root, data) => {
  const Plotly = await page.plotly();
  const config = { displayModeBar: false, responsive: true };
  const { make, colour } = page;
  const state = { flight: data.flights[0], step: 0, playing: false, threshold: data.threshold };
  const webgl = (() => {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  })();

  // Parts of the page.
  const choice = make("select", { "aria-label": "Flight", onchange: () => choose(Number(choice.value)) });
  data.flights.forEach((flight, index) => choice.append(make("option", { value: index }, flight.name)));
  const about = make("p", { class: "note", "aria-live": "polite" });
  const space = make("div", { class: "chart space" });
  const canvas = make("canvas", { class: "depth", width: data.image[1], height: data.image[0], role: "img",
    "aria-label": "Depth image at this moment" });
  const view = make("figure", {}, canvas, make("figcaption", {}, "Depth camera: near is red, far is blue."));
  const meters = make("div", { class: "meters" });
  const charts = make("div", { class: "chart over-time" });
  const play = make("button", { type: "button", class: "play", onclick: toggle }, "Play");
  const slider = make("input", { type: "range", min: 0, step: 1, value: 0, "aria-label": "Moment of the flight",
    oninput: () => { pause(); show(Number(slider.value)); } });
  const clock = make("output", { class: "clock" });
  const controls = make("div", { class: "controls sticky" }, play, slider, clock);
  const side = make("div", { class: "side" }, view, meters);
  if (data.flights.length > 1) root.append(make("label", { class: "choice" }, "Flight ", choice));
  root.append(about, make("div", { class: "look" }, space, side), controls, charts);

  // Numbers that are not finite come as null.
  const root2 = (value) => (value === null ? null : Math.sqrt(value));
  const said = (value, digits) => (value === null ? "–" : value.toFixed(digits));

  // What the bars beside the camera show: name, values, range, unit, and whether zero is in the middle.
  function quantities(flight) {
    const commands = data.commands.map((command, index) => ({
      name: command.name, values: flight.command[index], low: command.low, high: command.high, unit: command.unit,
    }));
    const known = [
      { name: "gate probability", values: flight.probability, low: 0, high: 1, unit: "", gate: true },
      ...commands,
      { name: "height", values: flight.position && flight.position[2], low: 0, high: peak(flight.position?.[2]), unit: "m" },
      { name: "speed", values: flight.speed, low: 0, high: peak(flight.speed), unit: "m/s" },
    ];
    return known.filter((quantity) => quantity.values && quantity.values.length);
  }

  function peak(values) {
    return values && values.length ? Math.max(1e-6, ...values) : 1;
  }

  function drawMeters() {
    state.quantities = quantities(state.flight);
    state.bars = state.quantities.map((quantity) => {
      const fill = make("span", { class: quantity.gate ? "fill gate" : "fill" });
      const tick = make("span", { class: "tick" });
      tick.hidden = !quantity.gate || state.threshold === null;
      if (!tick.hidden) tick.style.left = `${100 * Math.sqrt(state.threshold)}%`;
      const value = make("span", { class: "value" });
      const bar = make("span", { class: "track", "aria-hidden": "true" }, fill, tick);
      return { fill, value, tick, element: make("div", {}, make("span", { class: "name" }, quantity.name), value, bar) };
    });
    meters.replaceChildren(...state.bars.map((bar) => bar.element));
  }

  // Calibrated probabilities of a rare event are small: their square root shows the difference.
  function place(quantity, value) {
    const share = (value - quantity.low) / (quantity.high - quantity.low);
    return Math.min(1, Math.max(0, quantity.gate ? Math.sqrt(share) : share));
  }

  function updateMeters(step) {
    state.quantities.forEach((quantity, index) => {
      const { fill, value } = state.bars[index], now = quantity.values[step];
      const zero = quantity.low < 0 ? place(quantity, 0) : 0, here = place(quantity, now);
      fill.style.left = `${100 * Math.min(zero, here)}%`;
      fill.style.width = `${100 * Math.abs(here - zero)}%`;
      value.textContent = `${said(now, quantity.gate ? 4 : 2)} ${quantity.unit}`;
    });
  }

  // The scene.
  const SCALE = [[0, "#a3b8d9"], [0.35, "#4f6bd6"], [0.7, "#8b2fc9"], [1, "#e11d48"]];

  function mesh(solid, shade, opacity) {
    const [x, y, z] = solid.vertices, [i, j, k] = solid.faces;
    return { type: "mesh3d", x, y, z, i, j, k, color: shade, opacity, flatshading: true, hoverinfo: "skip",
      lighting: { ambient: 0.75, diffuse: 0.5, specular: 0.05 } };
  }

  function pathColours(flight) {
    const ticks = [0, 0.05, 0.2, 0.5, 1];
    if (flight.probability) {
      return { color: flight.probability.map(root2), cmin: 0, cmax: 1, colorscale: SCALE,
        colorbar: { title: { text: "gate probability", side: "top" }, tickvals: ticks.map(root2), ticktext: ticks.map(String) } };
    }
    return { color: flight.speed, cmin: 0, cmax: peak(flight.speed), colorscale: SCALE,
      colorbar: { title: { text: "speed (m/s)", side: "top" } } };
  }

  // Looks across the longer side of what is drawn, so that it lies from left to right and fills the picture.
  function viewpoint(x, y) {
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const mx = mean(x), my = mean(y);
    const xx = mean(x.map((v) => (v - mx) ** 2)), yy = mean(y.map((v) => (v - my) ** 2));
    const xy = mean(x.map((v, index) => (v - mx) * (y[index] - my)));
    const angle = 0.5 * Math.atan2(2 * xy, xx - yy), cos = Math.cos(angle), sin = Math.sin(angle);
    const extent = (values) => Math.max(...values) - Math.min(...values);
    const along = extent(x.map((v, index) => v * cos + y[index] * sin));
    const across = extent(x.map((v, index) => y[index] * cos - v * sin));
    const away = space.clientWidth < 500 ? 1.75 : 1.3;
    const eye = { x: away * sin, y: -away * cos, z: 0.75 * away };
    return { camera: { eye, center: { x: 0, y: 0, z: -0.12 } }, scale: 2.3 / Math.max(along, 1.5 * across) };
  }

  function drawSpace() {
    const flight = state.flight, position = flight.position;
    if (!position) {
      space.replaceChildren(page.gap("the flight in 3D", "The environment does not report positions."));
      state.spaceReady = false;
      return;
    }
    const muted = colour("muted"), ink = colour("ink");
    const colours = pathColours(flight);
    colours.colorbar = { ...colours.colorbar, orientation: "h", len: 0.6, thickness: 8, y: 0, yanchor: "top",
      tickangle: 0, tickfont: { color: muted, size: 11 }, outlinewidth: 0 };
    colours.colorbar.title.font = { color: muted, size: 11 };
    const [x, y, z] = position, track = flight.track;
    const end = z.length - 1;
    const ends = { x: [x[0], x[end]], y: [y[0], y[end]], z: [z[0], z[end]] };
    const labels = track ? { x: track.centres[0], y: track.centres[1], z: track.centres[2],
      text: track.centres[0].map((_, index) => String(index + 1)) } : null;
    const layout = {
      margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, paper_bgcolor: "transparent",
      plot_bgcolor: "transparent", font: { color: ink, size: 12 }, uirevision: flight.name,
    };
    const endColour = flight.crashed ? colour("bad") : ink;
    if (webgl) {
      const [east, north] = flight.ground;
      const fan = east.slice(2).map((_, index) => index + 1);
      const ground = { type: "mesh3d", x: east, y: north, z: east.map(() => 0), i: fan.map(() => 0), j: fan,
        k: fan.map((index) => index + 1), color: colour("line"), opacity: 0.55, hoverinfo: "skip" };
      const high = Math.max(...z, ...(track ? track.gates.vertices[2] : []), ...(track ? track.obstacles.vertices[2] : [])) + 0.5;
      const ranges = [[Math.min(...east), Math.max(...east)], [Math.min(...north), Math.max(...north)], [-0.1, high]];
      const { camera, scale } = viewpoint(east, north);
      const [width, depth, height] = ranges.map(([low, top]) => scale * (top - low));
      const hidden = (range) => ({ visible: false, showbackground: false, range });
      const traces = [
        ground,
        ...(track ? [mesh(track.gates, colour("accent"), 1), mesh(track.obstacles, muted, 0.5)] : []),
        { type: "scatter3d", mode: "lines", x, y, z, line: { width: 6, ...colours, showscale: true },
          hovertemplate: "%{text}<extra></extra>", text: x.map((_, step) => `${time(step).toFixed(2)} s, height ${said(z[step], 2)} m`) },
        { type: "scatter3d", mode: "markers", ...ends, hoverinfo: "text", text: ["start", flight.end],
          marker: { size: 5, color: [ink, endColour], symbol: ["circle", flight.crashed ? "x" : "square"] } },
        ...(labels ? [{ type: "scatter3d", mode: "text", ...labels, z: labels.z.map((h, index) => h + track.tops[index]),
          hoverinfo: "skip", textfont: { color: ink, size: 14 } }] : []),
        { type: "scatter3d", mode: "lines", x: [], y: [], z: [], hoverinfo: "skip", line: { width: 2, color: ink } },
        { type: "scatter3d", mode: "markers", x: [], y: [], z: [], hoverinfo: "skip",
          marker: { size: 7, color: colour("bad"), line: { color: colour("paper"), width: 1 } } },
      ];
      state.moving = [traces.length - 2, traces.length - 1];
      const scene = { aspectmode: "manual", aspectratio: { x: width, y: depth, z: height }, dragmode: "turntable", camera,
        xaxis: hidden(ranges[0]), yaxis: hidden(ranges[1]), zaxis: hidden(ranges[2]) };
      Plotly.react(space, traces, { ...layout, scene }, config);
    } else {
      const flat = { color: muted, gridcolor: colour("line"), zeroline: false, fixedrange: true };
      const bars = { x: [], y: [] };
      for (const [a, b] of track ? track.bars : []) {
        bars.x.push(a[0], b[0], null);
        bars.y.push(a[1], b[1], null);
      }
      const traces = [
        { mode: "lines", ...bars, line: { width: 5, color: colour("accent") }, hoverinfo: "skip" },
        { mode: "markers", x, y, marker: { size: 4, ...colours }, hoverinfo: "skip" },
        ...(labels ? [{ mode: "text", x: labels.x, y: labels.y, text: labels.text, hoverinfo: "skip", textposition: "top right" }] : []),
        { mode: "lines", x: [], y: [], hoverinfo: "skip", line: { width: 1.5, color: ink } },
        { mode: "markers", x: [], y: [], hoverinfo: "skip", marker: { size: 12, color: colour("bad") } },
      ];
      state.moving = [traces.length - 2, traces.length - 1];
      const plane = { ...layout, margin: { l: 44, r: 8, t: 8, b: 40 }, dragmode: false,
        xaxis: { ...flat, title: { text: "x (m)" } }, yaxis: { ...flat, title: { text: "y (m)" }, scaleanchor: "x" } };
      Plotly.react(space, traces, plane, config);
      if (!view.querySelector(".gap")) view.append(page.gap("the third dimension", "This browser offers no WebGL; the flight is drawn from above."));
    }
    state.spaceReady = true;
  }

  // Rotates a vector of the body frame into the world, by a quaternion (w, x, y, z).
  function rotate([w, qx, qy, qz], [vx, vy, vz]) {
    const tx = 2 * (qy * vz - qz * vy), ty = 2 * (qz * vx - qx * vz), tz = 2 * (qx * vy - qy * vx);
    return [vx + w * tx + qy * tz - qz * ty, vy + w * ty + qz * tx - qx * tz, vz + w * tz + qx * ty - qy * tx];
  }

  // The edges of the camera's view, as one line.
  function frustum(step) {
    const { position, quaternion } = state.flight, camera = data.camera;
    const here = position.map((axis) => axis[step]);
    if (!quaternion || !camera) return [[], [], []];
    const attitude = quaternion.map((part) => part[step]);
    const world = (point) => rotate(attitude, point).map((value, axis) => value + here[axis]);
    const eye = world(camera.eye), corners = camera.corners.map(world);
    const order = [0, 1, 2, 3, 0].map((index) => corners[index]);
    const points = [eye, ...order, eye, corners[1], corners[2], eye, corners[3]];
    return [0, 1, 2].map((axis) => points.map((point) => point[axis]));
  }

  function updateSpace(step) {
    if (!state.spaceReady || state.moved === step) return;
    state.moved = step;
    const here = state.flight.position.map((axis) => [axis[step]]), edges = frustum(step);
    const change = { x: [edges[0], here[0]], y: [edges[1], here[1]] };
    if (webgl) change.z = [edges[2], here[2]];
    Plotly.restyle(space, change, state.moving);
  }

  // The camera's image, out of a sheet of all images.
  function loadDepth() {
    const flight = state.flight;
    flight.sheet ??= Object.assign(new Image(), { src: flight.depth.uri });
    flight.sheet.decode().then(() => updateDepth(state.step));
  }

  const turbo = data.colours;
  function updateDepth(step) {
    const { depth, sheet } = state.flight, [rows, columns] = data.image;
    if (!sheet || !sheet.complete || !sheet.naturalWidth) return;
    const index = Math.floor(step / depth.stride), context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(sheet, (index % depth.columns) * columns, Math.floor(index / depth.columns) * rows, columns, rows, 0, 0, columns, rows);
    const image = context.getImageData(0, 0, columns, rows);
    for (let at = 0; at < image.data.length; at += 4) {
      const level = 3 * image.data[at];
      for (let channel = 0; channel < 3; channel++) image.data[at + channel] = turbo[level + channel];
    }
    context.putImageData(image, 0, 0);
  }

  // Over time.
  function time(step) {
    return step * data.period;
  }

  function marks() {
    const { passed } = state.flight;
    const upright = (x, line) => ({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line });
    const gates = passed.map((step) => upright(time(step), { color: colour("good"), width: 1.5 }));
    return [upright(time(state.step), { color: colour("bad"), width: 1.5 }), thresholdMark(), ...gates];
  }

  function thresholdMark() {
    const shown = state.flight.probability && state.threshold !== null;
    const level = shown ? Math.sqrt(state.threshold) : 0;
    return { type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: level, y1: level, visible: Boolean(shown),
      line: { color: colour("muted"), width: 1.5, dash: "dash" } };
  }

  function drawCharts() {
    const flight = state.flight, muted = colour("muted"), line = colour("line");
    const steps = flight.command[0].map((_, step) => time(step));
    const rates = ["#b45309", "#0f9d8a", "#3b82f6"];
    const rows = [];
    if (flight.probability) {
      rows.push({ title: "gate<br>probability", lines: [{ name: "gate probability", y: flight.probability.map(root2),
        text: flight.probability.map((value) => (value === null ? "–" : value.toPrecision(3))), shade: "#d6336c", fill: true }],
        ticks: [0.01, 0.1, 0.3, 1], low: 0, high: 1.02 });
    }
    const [thrust, ...others] = data.commands.map((command, index) => ({ ...command, y: flight.command[index] }));
    rows.push({ title: `${thrust.name}<br>(${thrust.unit})`, lines: [{ ...thrust, shade: colour("ink") }] });
    rows.push({ title: `body rates<br>(${others[0].unit})`, lines: others.map((rate, index) => ({ ...rate, shade: rates[index] })) });
    if (flight.position) rows.push({ title: "height<br>(m)", lines: [{ name: "height", y: flight.position[2], shade: colour("accent") }] });
    if (flight.speed) rows.push({ title: "speed<br>(m/s)", lines: [{ name: "speed", y: flight.speed, shade: "#7c5cd6" }] });
    const gap = 0.035, part = (1 - gap * (rows.length - 1)) / rows.length;
    const traces = [], axes = {};
    const flown = flight.distance ? flight.distance.map((metres) => `, ${said(metres, 1)} m flown`) : [];
    rows.forEach((row, index) => {
      const suffix = index ? String(index + 1) : "", top = 1 - index * (part + gap);
      axes[`yaxis${suffix}`] = { domain: [Math.max(0, top - part), top], title: { text: row.title, font: { size: 11 } },
        color: muted, gridcolor: line, zerolinecolor: line, fixedrange: true, nticks: 4,
        ...(row.ticks ? { tickvals: row.ticks.map(root2), ticktext: row.ticks.map(String), range: [row.low, row.high] } : {}) };
      for (const { name, y, text, shade, fill } of row.lines) {
        traces.push({ x: steps, y, name, text: text ?? y.map((value) => said(value, 2)), customdata: flown, xaxis: "x", yaxis: `y${suffix}`,
          mode: "lines", line: { color: shade, width: 1.6 }, fill: fill ? "tozeroy" : "none", fillcolor: fill ? `${shade}22` : undefined,
          hovertemplate: `${name} %{text}<extra></extra>`, showlegend: row.lines.length > 1 });
      }
    });
    const layout = {
      height: 96 * rows.length + 90, margin: { l: 64, r: 10, t: 6, b: 44 }, dragmode: false, hovermode: "x", hoversubplots: "axis",
      paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: colour("ink"), size: 12 },
      hoverlabel: { font: { size: 11 } }, legend: { orientation: "h", x: 0, y: -0.075, yanchor: "top", font: { size: 11 } },
      xaxis: { title: { text: "time (s)", standoff: 4 }, anchor: `y${rows.length > 1 ? rows.length : ""}`, color: muted, gridcolor: line, zeroline: false,
        fixedrange: true, range: [0, time(steps.length)] },
      ...axes, shapes: marks(),
    };
    Plotly.react(charts, traces, layout, config);
  }

  // Moments.
  function show(step) {
    state.step = Math.min(Math.max(step, 0), state.flight.length - 1);
    slider.value = state.step;
    slider.setAttribute("aria-valuetext", `${time(state.step).toFixed(2)} seconds`);
    clock.textContent = `${time(state.step).toFixed(2)} s`;
    updateMeters(state.step);
    updateDepth(state.step);
    updateSpace(state.step);
    Plotly.relayout(charts, { "shapes[0].x0": time(state.step), "shapes[0].x1": time(state.step) });
  }

  function choose(index) {
    pause();
    state.flight = data.flights[index];
    state.flight.length = state.flight.command[0].length;
    state.moved = -1;
    slider.max = state.flight.length - 1;
    about.textContent = state.flight.about;
    redraw(0);
    loadDepth();
  }

  function redraw(step) {
    drawMeters();
    drawSpace();
    drawCharts();
    show(step);
  }

  function pause() {
    state.playing = false;
    play.textContent = "Play";
  }

  function toggle() {
    if (state.playing) {
      pause();
      return;
    }
    state.playing = true;
    play.textContent = "Pause";
    if (state.step >= state.flight.length - 1) show(0);
    const began = performance.now() - 1000 * time(state.step);
    const next = (now) => {
      if (!state.playing) return;
      const step = Math.floor((now - began) / 1000 / data.period);
      if (step >= state.flight.length - 1) {
        show(state.flight.length - 1);
        pause();
      } else {
        if (step > state.step) show(step);
        requestAnimationFrame(next);
      }
    };
    requestAnimationFrame(next);
  }

  // Space plays and pauses, the arrows step, wherever the focus is within the flight.
  root.tabIndex = 0;
  root.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 };
    if (event.target.matches("select, button") && event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    if (event.target.matches("select")) return;
    if (event.key === " ") toggle();
    else if (event.key in steps) { pause(); show(state.step + steps[event.key]); }
    else if (event.key === "Home") { pause(); show(0); }
    else if (event.key === "End") { pause(); show(state.flight.length - 1); }
    else return;
    event.preventDefault();
  });
  document.addEventListener("threshold", (event) => {
    state.threshold = event.detail;
    drawMeters();
    updateMeters(state.step);
    Plotly.relayout(charts, { "shapes[1]": thresholdMark() });
  });
  page.onTheme(() => redraw(state.step));
  choose(0);
  charts.on("plotly_click", (event) => { pause(); show(event.points[0].pointNumber); });
  // A page can be opened at a moment, as in index.html#t=2.5.
  const asked = /[#&]t=([\d.]+)/.exec(location.hash);
  if (asked) show(Math.round(Number(asked[1]) / data.period));
};
