"use strict";
// Draws the tree of a profile as nested boxes; a click shows one box at full width. Names are set as text only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const flame = document.getElementById("flame");
  const choice = document.getElementById("quantity");
  const trail = document.getElementById("trail");
  const told = document.getElementById("told");
  const smallest = 0.001; // of the full width: what is narrower is not drawn
  let shown = [data.tree]; // the box at full width and those around it, outermost first

  const number = (value, unit) => {
    if (unit === "") return String(value);
    const scales = unit === "s" ? [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]] : [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]];
    const [scale, name] = scales.find(([least]) => value >= least) || scales[scales.length - 1];
    return `${Number((value / scale).toPrecision(4))} ${name}`;
  };
  const all = (node) => data.quantities.map((q, k) => `${q.name}: ${number(node.values[k], q.unit)}`);
  const describe = (node) => `${node.kind} ${node.name} · instructions: ${node.instructions} · ${all(node).join(" · ")}`;

  function box(path, node, k, left, width, depth) {
    const button = document.createElement("button");
    const quantity = data.quantities[k];
    button.type = "button";
    button.className = `box ${node.kind}`;
    button.textContent = `${node.name} ${number(node.values[k], quantity.unit)}`;
    button.title = describe(node);
    button.style.left = `${100 * left}%`;
    button.style.width = `${100 * width}%`;
    button.style.top = `${1.9 * depth}rem`;
    button.addEventListener("click", () => { shown = [...path, node]; draw(); });
    for (const happening of ["mouseenter", "focus"])
      button.addEventListener(happening, () => { told.textContent = describe(node); });
    flame.append(button);
    let deepest = depth, start = left;
    for (const child of [...node.children].sort((a, b) => b.values[k] - a.values[k])) {
      const part = node.values[k] > 0 ? width * child.values[k] / node.values[k] : 0;
      if (part >= smallest) deepest = Math.max(deepest, box([...path, node], child, k, start, part, depth + 1));
      start += part;
    }
    return deepest;
  }

  function draw() {
    const k = Number(choice.value);
    flame.replaceChildren();
    trail.replaceChildren();
    shown.slice(0, -1).forEach((node, at) => {
      const back = document.createElement("button");
      back.type = "button";
      back.textContent = `${node.name} ›`;
      back.addEventListener("click", () => { shown = shown.slice(0, at + 1); draw(); });
      trail.append(back);
    });
    const node = shown[shown.length - 1];
    const deepest = box(shown.slice(0, -1), node, k, 0, 1, 0);
    flame.style.height = `${1.9 * (deepest + 1)}rem`;
    told.textContent = describe(node);
  }

  data.quantities.forEach((quantity, k) => {
    const option = document.createElement("option");
    option.value = String(k);
    option.textContent = quantity.name;
    choice.append(option);
  });
  choice.addEventListener("change", draw);
  document.getElementById("flame-view").hidden = false;
  draw();
})();
