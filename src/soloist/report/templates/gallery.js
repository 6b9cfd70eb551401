// The gallery: filters and sorts what the document holds, and shows an image by itself.
// All text from outside is in the document already; it is only ever copied as text.
(() => {
  "use strict";
  const gallery = document.querySelector(".gallery");
  if (!gallery) return;
  const find = (selector, inside = document) => inside.querySelector(selector);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const SVG = "http://www.w3.org/2000/svg";
  const AREA_UNITS = 1e6;
  const AREA_END = 100;
  const SCORE_UNITS = 1000;

  const images = all("article", gallery).map((element, place) => ({
    element,
    place,
    name: find("h3", element).textContent,
    opener: null,
    layers: all("figure", element).map((figure) => ({
      figure,
      svg: find("svg", figure),
      summary: find(".count", figure),
      title: find(".stage", figure).textContent,
      isTruth: find(".truth", figure) !== null,
      isKnown: find(".masks", figure) !== null,
      recall: Number(figure.dataset.recall ?? NaN),
      overlap: Number(figure.dataset.overlap ?? NaN),
      count: 0,
      masks: all(".masks > path", figure).map((path) => ({
        path,
        score: Number(path.dataset.score),
        area: Number(path.dataset.area),
        label: path.dataset.label ?? "",
        on: !path.classList.contains("off"),
        fits: true,
      })),
    })),
  }));
  const stages = images[0].layers.map((layer) => layer.title);
  const truthAt = images[0].layers.findIndex((layer) => layer.isTruth);
  const lastStage = truthAt >= 0 ? Math.max(0, truthAt - 1) : stages.length - 1;
  const form = find(".controls");
  const view = find("#view");
  const order = find("#order");
  const remaining = find("#remaining");
  const scoreSliders = new Map(
    all(".least-score").map((slider) => [Number(slider.dataset.column), slider]),
  );
  const minAreaSlider = find("#min-area");
  const largestArea = find("#largest-area");
  // The chosen column; null is all of them.
  const columnOf = () => (view && view.value !== "all" ? Number(view.value) : null);
  const digits = (value) => String(Number(value.toPrecision(2)));
  const scoreText = (units) => String(units / SCORE_UNITS);
  const areaText = (units) => `${digits((100 * units) / AREA_UNITS)} %`;
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  // The third power leaves room for small masks: the middle of the slider is an eighth.
  const areaAt = (slider) => AREA_UNITS * (Number(slider.value) / AREA_END) ** 3;

  function tellSlider(slider, text) {
    find(".value", slider.parentElement).textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }

  function filter() {
    const least = areaAt(minAreaSlider);
    const largest = areaAt(largestArea);
    const everything = Number(minAreaSlider.value) === 0;
    tellSlider(minAreaSlider, everything ? "any" : areaText(least));
    tellSlider(largestArea, Number(largestArea.value) === AREA_END ? "any" : areaText(largest));
    for (const slider of scoreSliders.values()) tellSlider(slider, scoreText(slider.value));
    const scores = stages.map((_, place) => Number(scoreSliders.get(place)?.value ?? -Infinity));
    const column = columnOf();
    for (const image of images) {
      image.layers.forEach((layer, place) => {
        layer.count = 0;
        for (const mask of layer.masks) {
          mask.fits = mask.area >= least && mask.area <= largest;
          const on = mask.fits && mask.score >= scores[place];
          if (on !== mask.on) mask.path.classList.toggle("off", !on);
          mask.on = on;
          layer.count += on;
        }
        if (!layer.isKnown) return;
        const held = layer.masks.length;
        const summary =
          layer.count === held ? plural(held, "mask") : `${layer.count} of ${plural(held, "mask")}`;
        if (summary === layer.summary.textContent) return;
        layer.summary.textContent = summary;
        const name = stages[place] ? `${stages[place]}, ${summary}` : summary;
        layer.svg.setAttribute("aria-label", `${image.name}: ${name}`);
      });
    }
    const hideEmpty = find("#hide-empty").checked;
    let on = 0;
    let held = 0;
    let withMasks = 0;
    for (const image of images) {
      const layers = counted(image, column);
      const count = layers.reduce((sum, layer) => sum + layer.count, 0);
      on += count;
      held += layers.reduce((sum, layer) => sum + layer.masks.length, 0);
      withMasks += count > 0;
      image.element.hidden = hideEmpty && count === 0;
    }
    const number = (value) => value.toLocaleString("en");
    const text =
      `${number(on)} of ${plural(held, "mask")} shown, on ${number(withMasks)} of ` +
      `${plural(images.length, "image")}`;
    if (remaining.textContent !== text) remaining.textContent = text;
    keepOneStop();
  }

  // Side by side, true masks do not count as found ones.
  function counted(image, column) {
    if (column !== null) return [image.layers[column]];
    return image.layers.filter((layer) => !layer.isTruth || stages.length === 1);
  }

  // Doubt: how many masks are near the least score chosen, whether they are shown or not. One at
  // that score counts 1, one a tenth of the slider's length away 0, in between less and less.
  // Scores are no probabilities, so that 0.5 is not what doubt is measured from.
  function doubt(layer, place) {
    const slider = scoreSliders.get(place);
    if (!slider) return 0;
    const reach = (slider.max - slider.min) / 10;
    const near = (score) => Math.max(0, 1 - Math.abs(score - slider.value) / reach);
    return layer.masks.reduce((sum, mask) => sum + (mask.fits ? near(mask.score) : 0), 0);
  }

  // What images are sorted by, smallest first; NaN goes to the end.
  const KEYS = {
    file: () => [0],
    "score-high": (layer, masks) => [-Math.max(...masks.map((mask) => mask.score))],
    "score-low": (layer, masks) => [Math.max(...masks.map((mask) => mask.score))],
    "count-high": (layer) => [-layer.count],
    "count-low": (layer) => [layer.count],
    doubt: (layer, masks, place) => [-doubt(layer, place)],
    worst: (layer) => [layer.recall, layer.overlap],
    best: (layer) => [-layer.recall, -layer.overlap],
  };

  function sort() {
    const column = columnOf();
    const place = column === null || column === truthAt ? lastStage : column;
    const rank = (image) => {
      const layer = image.layers[place];
      const key = KEYS[order.value](layer, layer.masks.filter((mask) => mask.on), place);
      return key.map((value) => (Number.isFinite(value) ? value : Infinity));
    };
    const ranked = images.map((image) => ({ image, key: rank(image) }));
    ranked.sort((one, other) => {
      for (let i = 0; i < one.key.length; i += 1) {
        if (one.key[i] !== other.key[i]) return one.key[i] < other.key[i] ? -1 : 1;
      }
      return one.image.place - other.image.place;
    });
    const inOrder = ranked.map(({ image }) => image.element);
    if (inOrder.some((element, index) => gallery.children[index] !== element)) {
      gallery.replaceChildren(...inOrder);
    }
  }

  function show() {
    const column = columnOf();
    gallery.classList.toggle("single", column !== null || stages.length === 1);
    for (const { layers } of images) {
      layers.forEach((layer, place) => {
        layer.figure.hidden = column !== null && place !== column;
      });
    }
    for (const [place, slider] of scoreSliders) {
      slider.parentElement.hidden = column !== null && place !== column;
    }
    gallery.classList.toggle("no-masks", !find("#masks-on").checked);
    find("#closer").classList.toggle("no-masks", !find("#masks-on").checked);
    const outlines = find("#true-outlines");
    if (outlines) gallery.classList.toggle("outlined", outlines.checked);
  }

  function update() {
    show();
    filter();
    sort();
  }

  // One image is in the tab order; arrow keys go to the others.
  const byElement = new Map(images.map((image) => [image.element, image]));
  const visible = () =>
    [...gallery.children].filter((one) => !one.hidden).map((one) => byElement.get(one));
  let current = images[0];

  function keepOneStop() {
    if (current.element.hidden) current = visible()[0] ?? current;
    for (const { opener } of images) opener.tabIndex = opener === current.opener ? 0 : -1;
  }

  function goTo(image) {
    current = image;
    keepOneStop();
    image.opener.focus({ preventScroll: true });
    const smooth = matchMedia("(prefers-reduced-motion: no-preference)").matches;
    image.element.scrollIntoView({ block: "nearest", behavior: smooth ? "smooth" : "auto" });
  }

  function onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const shown = visible();
    const at = shown.indexOf(current);
    const top = shown[0]?.element.offsetTop;
    const perRow = shown.filter(({ element }) => element.offsetTop === top).length;
    const targets = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at - perRow,
      ArrowDown: at + perRow,
      Home: 0,
      End: shown.length - 1,
    };
    const target = shown[targets[event.key]];
    if (!(event.key in targets)) return;
    event.preventDefault();
    if (target) goTo(target);
  }

  for (const image of images) {
    const heading = find("h3", image.element);
    const opener = document.createElement("button");
    opener.type = "button";
    opener.textContent = image.name;
    opener.setAttribute("aria-haspopup", "dialog");
    opener.addEventListener("focus", () => {
      current = image;
      keepOneStop();
    });
    opener.addEventListener("keydown", onKey);
    opener.addEventListener("click", () => open(image, columnOf() ?? lastStage));
    heading.replaceChildren(opener);
    image.opener = opener;
    image.layers.forEach((layer, place) => {
      layer.svg.addEventListener("click", () => open(image, place));
      if (truthAt < 0 || place === truthAt) return;
      // The true masks are in the page once; here they are outlines on demand.
      const group = find(".truth", image.layers[truthAt].figure);
      group.id = `truth-${image.place}`;
      const use = document.createElementNS(SVG, "use");
      use.setAttribute("href", `#${group.id}`);
      use.setAttribute("class", "true-outlines");
      layer.svg.append(use);
    });
  }

  // What a mask is, beside the pointer.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  const describe = (mask, isTruth) =>
    [mask.label, isTruth ? "" : `score ${scoreText(mask.score)}`, `area ${areaText(mask.area)}`]
      .filter(Boolean)
      .join(" · ");
  gallery.addEventListener("pointermove", (event) => {
    const path = event.target.closest(".masks > path");
    tip.hidden = !path;
    if (!path) return;
    const isTruth = path.parentElement.classList.contains("truth");
    const { score, area, label = "" } = path.dataset;
    tip.textContent = describe({ score: Number(score), area: Number(area), label }, isTruth);
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    tip.style.transform = `translate(${left}px, ${event.clientY + 16}px)`;
  });
  gallery.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });

  // An image by itself.
  const closer = find("#closer");
  const closerView = find("#closer-view");
  let opened = null;

  function open(image, place) {
    opened = image;
    current = image;
    if (closerView) closerView.value = String(place);
    fill();
    if (!closer.open) closer.showModal();
  }

  function fill() {
    const layer = opened.layers[closerView ? Number(closerView.value) : 0];
    const shown = visible();
    const at = shown.indexOf(opened);
    find("#closer-name").textContent = opened.name;
    find("#closer-place").textContent = `${at + 1} of ${shown.length}`;
    find("#previous").disabled = at <= 0;
    find("#next").disabled = at < 0 || at >= shown.length - 1;
    const verdict = find(".verdict", layer.figure).textContent;
    find("#closer-summary").textContent = `${layer.summary.textContent}${verdict}`;
    const svg = layer.svg.cloneNode(true);
    find("image, use", svg).replaceWith(reference(opened));
    find(".masks", svg)?.removeAttribute("id");
    find("#closer-image").replaceChildren(svg);
    const copies = all(".masks > path", svg);
    const lines = layer.masks
      .map((mask, index) => ({ mask, path: copies[index] }))
      .filter(({ mask }) => mask.on)
      .sort((one, other) => other.mask.score - one.mask.score)
      .map(({ mask, path }) => maskLine(mask, path, layer.isTruth));
    find("#closer-masks").replaceChildren(...lines);
  }

  function reference(image) {
    const use = document.createElementNS(SVG, "use");
    use.setAttribute("href", `#${find("image", image.element).id}`);
    return use;
  }

  function maskLine(mask, path, isTruth) {
    const line = document.createElement("li");
    const button = document.createElement("button");
    const swatch = document.createElement("span");
    swatch.className = `swatch ${mask.path.classList[0]}`;
    button.type = "button";
    button.append(swatch, describe(mask, isTruth));
    const light = (on) => () => {
      path.classList.toggle("lit", on);
      path.parentElement.classList.toggle("has-lit", on);
      button.classList.toggle("lit", on);
    };
    for (const element of [button, path]) {
      element.addEventListener("pointerenter", light(true));
      element.addEventListener("pointerleave", light(false));
    }
    button.addEventListener("focus", light(true));
    button.addEventListener("blur", light(false));
    path.addEventListener("click", () => button.focus());
    line.append(button);
    return line;
  }

  function turn(step) {
    const shown = visible();
    const next = shown[shown.indexOf(opened) + step];
    if (next) open(next, closerView ? Number(closerView.value) : 0);
  }

  find("#previous").addEventListener("click", () => turn(-1));
  find("#next").addEventListener("click", () => turn(1));
  find("#close").addEventListener("click", () => closer.close());
  closerView?.addEventListener("change", fill);
  closer.addEventListener("close", () => goTo(opened));
  closer.addEventListener("click", (event) => {
    if (event.target === closer) closer.close();
  });
  closer.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target === closerView) return;
    const lines = all("#closer-masks button");
    const at = lines.indexOf(document.activeElement);
    if (event.key === "ArrowLeft") turn(-1);
    else if (event.key === "ArrowRight") turn(1);
    else if (event.key === "ArrowDown") (lines[at + 1] ?? lines[at])?.focus();
    else if (event.key === "ArrowUp") (lines[at - 1] ?? lines[at])?.focus();
    else return;
    event.preventDefault();
  });

  form.reset(); // Browsers keep what was chosen before a reload.
  // Moving a slider filters at once; images change places when it is let go.
  let waiting = false;
  form.addEventListener("input", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      filter();
    });
  });
  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
  find("#every-mask").addEventListener("click", () => {
    for (const slider of [...scoreSliders.values(), minAreaSlider]) slider.value = slider.min;
    largestArea.value = largestArea.max;
    update();
  });
  form.hidden = false;
  document.documentElement.classList.add("live");
  update();
})();
