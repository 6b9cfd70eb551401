// The page: what is beside the image, and what is asked of the server.

import { h, render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import htm from "htm";
import { Items } from "./items.js";
import { Stage, colorOf } from "./stage.js";

const html = htm.bind(h);
const MAX_LISTED = 300; // Images in the list at once.
const POLL = 1000; // Milliseconds between questions about a training.
const WAIT = 200; // Milliseconds between looks whether the hand is free.
const TOOLS = [["keep", "Keep", "K"], ["split", "Split", "S"], ["subtract", "Take away", "T"],
  ["draw", "Draw", "L"]];

async function ask(path, values) {
  const sent = values && { method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify(values) };
  let answer;
  try {
    answer = await fetch(path, sent);
  } catch {
    throw new Error("The studio does not answer; see what the terminal says, and whether the command still runs.");
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.headers.get("Content-Type").startsWith("application/json")
    ? answer.json() : answer.arrayBuffer();
}

function App() {
  const [overview, setOverview] = useState(null);
  const [state, setState] = useState(null);
  const [lit, setLit] = useState(null);
  const [tool, setTool] = useState("keep");
  const [category, setCategory] = useState(null);
  const [score, setScore] = useState(0.3);
  const [masks, setMasks] = useState(true);
  const [busy, setBusy] = useState("");
  const [said, setSaid] = useState("");
  const [problem, setProblem] = useState("");
  const [help, setHelp] = useState(false);
  const stage = useRef(null);
  const root = useRef(null);
  const queue = useRef(Promise.resolve());
  const now = useRef({});
  now.current = { overview, state, category, score };

  const tell = (line) => { setProblem(""); setSaid(line); };
  const complain = (error) => setProblem(error.message);

  async function refresh() {
    const found = await ask("/api/overview");
    setOverview(found);
    return found;
  }

  async function open(index, line) {
    setBusy("Looking for objects");
    try {
      // What comes between two states of one version is of that version.
      const { version } = await ask(`/api/state?index=${index}`);
      const items = new Items(await ask(`/api/tree?index=${index}`));
      const isShown = await inTurn(async () => {
        const fresh = await ask(`/api/state?index=${index}`);
        if (fresh.version !== version) return false;
        setState(fresh);
        now.current.state = fresh;
        stage.current.show(items, fresh, `/api/image?index=${index}&version=${fresh.version}`);
        window.studio.ready = `${fresh.name} ${fresh.version}`;
        history.replaceState(null, "", `#${index}`);
        stage.current.scroll.focus({ preventScroll: true });
        tell(line ?? `${fresh.name}, ${fresh.objects.length} objects${fresh.finished ? ", finished" : ""}`);
        setLit(null);
        return true;
      });
      if (!isShown) { await open(index, line); return; }
      refresh();
    } catch (error) {
      complain(error);
    }
    setBusy("");
  }

  // One after the other: each is about the objects that the one before left.
  function inTurn(work) {
    const done = queue.current.then(work);
    queue.current = done.catch(() => {});
    return done;
  }

  function act(values) {
    return inTurn(async () => {
      const { state, category, overview } = now.current;
      try {
        const fresh = await ask("/api/act", { index: state.index, version: stage.current.version,
          category: category ?? overview.categories[0][0], ...values });
        setState(fresh);
        now.current.state = fresh;
        stage.current.show(stage.current.items, fresh);
        window.studio.acts += 1;
        tell(`${sayAct(values, state, fresh)} Saved.`);
        setOverview((known) => known && { ...known, images: known.images.map((image, at) =>
          at === fresh.index
            ? { ...image, objects: fresh.objects.length, finished: fresh.finished } : image) });
      } catch (error) {
        complain(error);
        stage.current.light(false);
      }
    });
  }

  async function finish() {
    await act({ act: "finish", finished: true });
    const { state, overview } = now.current;
    const left = overview.images.some((image, at) => at !== state.index && !image.finished);
    if (left) await open(state.next);
    else tell("All images are finished. Learn from them, or export them.");
  }

  // What was begun is given up.
  function giveUp() {
    if (stage.current.isBusy) tell("Given up.");
    pick("keep");
  }

  function undo() {
    if (!stage.current.takeBack()) act({ act: "undo" });
  }

  function choose(id) {
    const { lit } = stage.current;
    setCategory(id);
    if (lit && lit.object) act({ act: "classify", objects: [lit.object.number], category: id });
  }

  function pick(name) {
    setTool(name);
    stage.current.setTool(name);
  }

  useEffect(() => {
    window.studio = { ready: "", acts: 0, stage: null };
    stage.current = new Stage(root.current, {
      act: (values) => act(values), lit: setLit, zoomed: () => {}, said: tell });
    window.studio.stage = stage.current;
    refresh().then((found) => {
      setScore(found.recommended);
      const asked = Number.parseInt(location.hash.slice(1), 10);
      const first = found.images.findIndex((image) => !image.finished);
      return open(asked >= 0 && asked < found.images.length ? asked : Math.max(0, first));
    }).catch(complain);
  }, []);

  useEffect(() => {
    if (!stage.current) return;
    stage.current.score = score;
    stage.current.showMasks = masks;
    stage.current.byObject = !overview || overview.categories.length === 1;
    if (stage.current.items) {
      stage.current.drawKept();
      stage.current.drawOffered();
    }
  }, [score, masks, state && state.index, overview && overview.categories.length]);

  const running = overview && overview.learning.state === "running";
  useEffect(() => {
    if (!running) return undefined;
    const timer = setInterval(async () => {
      await refresh().catch(complain);
    }, POLL);
    return () => clearInterval(timer);
  }, [running]);

  // New masks come when nothing is begun.
  const isOld = Boolean(overview && state && overview.version !== stage.current.version);
  useEffect(() => {
    if (!isOld) return undefined;
    const timer = setInterval(() => {
      if (stage.current.isBusy) return;
      clearInterval(timer);
      open(now.current.state.index, "New masks are offered on images that are not finished.");
    }, WAIT);
    return () => clearInterval(timer);
  }, [isOld]);

  useEffect(() => {
    function keyed(event) {
      const { state, overview } = now.current;
      const typing = event.target.closest("input:not([type=range]), select, dialog");
      if (!state || typing || event.altKey) return;
      const plain = !event.ctrlKey && !event.metaKey;
      const key = event.key.toLowerCase();
      const category = overview.categories[Number(key) - 1];
      if (!plain && key === "z") { if (event.shiftKey) act({ act: "redo" }); else undo(); }
      else if (!plain && key === "y") act({ act: "redo" });
      else if (!plain) return;
      else if (key === "u") undo();
      else if (key === "escape") giveUp();
      else if (category && key.length === 1) choose(category[0]);
      else if (key === "f") finish();
      else if (key === "n") open((state.index + 1) % overview.images.length);
      else if (key === "p") open((state.index + overview.images.length - 1) % overview.images.length);
      else if (key === "d") open(state.next);
      else if (key === "a") keepAll();
      else if (key === "h") setMasks((shown) => !shown);
      else if (key === "+" || key === "=") stage.current.zoomBy(1);
      else if (key === "-") stage.current.zoomBy(-1);
      else if (key === "?") setHelp(true);
      else if (["m", "[", "]"].includes(key)) stage.current.keyed(event);
      else if (key === "delete" || key === "backspace" || key === "x") {
        if (key === "backspace" && stage.current.takeBack()) { event.preventDefault(); return; }
        const { lit } = stage.current;
        if (lit && lit.object) act({ act: "remove", objects: [lit.object.number] });
      } else {
        const chosen = TOOLS.find(([, , letter]) => letter.toLowerCase() === key);
        if (!chosen) return;
        pick(chosen[0]);
      }
      event.preventDefault();
    }
    addEventListener("keydown", keyed);
    return () => removeEventListener("keydown", keyed);
  }, []);

  function keepAll() {
    const { overview, score } = now.current;
    act({ act: "keep-all", score, items: [], categories: overview.categories.map(([id]) => id) });
  }

  async function learn(stop) {
    try {
      setOverview(await ask("/api/learn", { stop }));
    } catch (error) {
      complain(error);
    }
  }

  async function exportTo(format) {
    setBusy("Writing");
    try {
      const made = await ask("/api/export", { format });
      tell(`${made.masks} masks of ${made.images} images are in ${made.folder}`);
    } catch (error) {
      complain(error);
    }
    setBusy("");
  }

  async function rename(categories) {
    try {
      setOverview(await ask("/api/categories", { categories }));
    } catch (error) {
      complain(error);
    }
  }

  const names = new Map(overview ? overview.categories : []);
  return html`
    <header>
      <h1>Soloist studio</h1>
      <div class="tools" role="toolbar" aria-label="Tools">
        ${TOOLS.map(([name, label, letter]) => html`
          <button aria-pressed=${tool === name} aria-keyshortcuts=${letter} title=${`${label} (${letter})`}
            onClick=${() => pick(name)}>${label}</button>`)}
        <button disabled=${!state || !state.canUndo} title="Undo (Ctrl+Z or U)"
          onClick=${undo}>Undo</button>
        <button disabled=${!state || !state.canRedo} title="Redo (Ctrl+Y)"
          onClick=${() => act({ act: "redo" })}>Redo</button>
        <button aria-pressed=${!masks} title="Hide masks (H)" onClick=${() => setMasks(!masks)}>Hide masks</button>
        <button title="Keys (?)" onClick=${() => setHelp(true)}>Keys</button>
      </div>
      <p class="lit" id="lit">${sayLit(lit, stage.current, names)}</p>
    </header>
    <nav aria-label="Images">
      ${overview && html`<${Images} overview=${overview} state=${state} open=${open} finish=${finish} act=${act} />`}
    </nav>
    <main ref=${root} aria-busy=${busy !== ""}>
      <div class="scroll" tabindex="0" role="application" aria-label="Image with masks"
        aria-describedby="how lit">
        <div class="sheet"><img alt="" draggable=${false} /><canvas class="kept"></canvas>
          <canvas></canvas><canvas></canvas></div>
      </div>
      <p id="how" class="unseen">Arrow keys move the cursor, Enter keeps what is lit or removes it,
        brackets walk to parts and groups, question mark lists all keys.</p>
      ${busy && html`<p class="busy">${busy} …</p>`}
    </main>
    <aside aria-label="Objects and models">
      ${state && overview && html`
        <${Objects} state=${state} names=${names} stage=${stage.current} act=${act} />
        <${Classes} overview=${overview} current=${category ?? overview.categories[0][0]} choose=${choose}
          rename=${rename} />
        <section>
          <h2>Offered masks</h2>
          <label>Score from <input type="range" min="0.05" max="1" step="0.01" value=${score}
            aria-valuetext=${score.toFixed(2)} onInput=${(event) => setScore(Number(event.target.value))} />
            <output>${score.toFixed(2)}</output></label>
          <button title="Keep all (A)" onClick=${keepAll}>Keep all from this score</button>
        </section>
        <${Learn} overview=${overview} learn=${learn} />
        <section>
          <h2>Export</h2>
          <form onSubmit=${(event) => { event.preventDefault(); exportTo(event.target.format.value); }}>
            <select name="format" aria-label="Format">
              ${overview.formats.map((name) => html`<option>${name}</option>`)}</select>
            <button>Export</button>
          </form>
          <p class="small">Labels: <code>${overview.labels}</code></p>
        </section>`}
    </aside>
    <footer>
      <p role="status" aria-live="polite">${said}</p>
      <p role="alert" class="problem">${problem}</p>
    </footer>
    ${help && html`<${Help} close=${() => setHelp(false)} />`}`;
}

function Images({ overview, state, open, finish, act }) {
  const [wanted, setWanted] = useState("");
  const here = state ? state.index : 0;
  const done = overview.images.filter((image) => image.finished).length;
  const all = overview.images.map((image, at) => ({ ...image, at }));
  const named = all.filter((image) => image.name.toLowerCase().includes(wanted.toLowerCase()));
  const place = Math.max(0, named.findIndex((image) => image.at === here) - MAX_LISTED / 2);
  const listed = named.slice(place, place + MAX_LISTED);
  return html`
    <h2>Images</h2>
    <p><progress max=${all.length} value=${done} aria-label="Finished images"></progress>
      ${` ${done} of ${all.length} finished`}</p>
    <div class="row">
      <button title="Previous (P)" onClick=${() => open((here + all.length - 1) % all.length)}>Previous</button>
      <button title="Next (N)" onClick=${() => open((here + 1) % all.length)}>Next</button>
    </div>
    <button class="main" title="Finish this one and open the one of most doubt (F)"
      onClick=${finish}>Finish, next in doubt</button>
    ${state && state.finished && html`<button onClick=${() => act({ act: "finish", finished: false })}>
      Not finished after all</button>`}
    <input type="search" placeholder="Find by name" aria-label="Find an image by name" value=${wanted}
      onInput=${(event) => setWanted(event.target.value)} />
    <ol>${listed.map((image) => html`
      <li key=${image.name}><button aria-current=${image.at === here ? "true" : null}
        onClick=${() => open(image.at)}>
        <span class="name">${image.name}</span>
        <span class="small" title="Objects kept; after ~ the mean score of what is offered: the lower, the more doubt">${image.finished ? "✓ " : ""}${image.objects || ""}${
          !image.finished && image.estimate != null ? ` ~${image.estimate.toFixed(2)}` : ""}</span>
      </button></li>`)}</ol>`;
}

function Objects({ state, names, stage, act }) {
  const light = (object) => () => {
    stage.lit = { object: stage.objects.find((one) => one.number === object.number) };
    stage.drawLit();
    stage.on.lit(stage.lit);
  };
  return html`
    <section>
      <h2>Objects <span class="count">${state.objects.length}</span></h2>
      <ul class="objects">${state.objects.map((object, at) => html`
        <li key=${object.number}>
          <button onFocus=${light(object)} onMouseEnter=${light(object)} onClick=${light(object)}>
            <span class="dot" style=${{ background: `rgb(${stage.colorOf(object).join(" ")})` }}></span>
            ${at + 1}. ${names.get(object.category)}</button>
          <button class="remove" aria-label=${`Remove object ${at + 1}`}
            onClick=${() => act({ act: "remove", objects: [object.number] })}>×</button>
        </li>`)}</ul>
      ${state.objects.length === 0 && html`<p class="small">Nothing kept yet: click on what is lit.</p>`}
    </section>`;
}

function Classes({ overview, current, choose, rename }) {
  const [name, setName] = useState("");
  const add = (event) => {
    event.preventDefault();
    if (!name.trim()) return;
    const id = 1 + Math.max(0, ...overview.categories.map(([key]) => key));
    rename([...overview.categories, [id, name]]);
    setName("");
  };
  return html`
    <section>
      <h2>Classes</h2>
      <ul class="classes" role="radiogroup" aria-label="Class of new objects">
        ${overview.categories.map(([id, label], at) => html`
          <li key=${id}><button role="radio" aria-checked=${id === current} onClick=${() => choose(id)}>
            <span class="dot" style=${{ background: `rgb(${colorOf(id).join(" ")})` }}></span>
            ${at < 9 && html`<kbd>${at + 1}</kbd>`} ${label}</button>
          <button class="remove" aria-label=${`Rename ${label}`} onClick=${() => {
            const other = prompt("Name of the class", label);
            if (other) rename(overview.categories.map((one) => (one[0] === id ? [id, other] : one)));
          }}>✎</button></li>`)}</ul>
      <form onSubmit=${add}><input aria-label="Name of a new class" placeholder="New class" value=${name}
        onInput=${(event) => setName(event.target.value)} /><button>Add</button></form>
    </section>`;
}

function Learn({ overview, learn }) {
  const { state, line, step, images } = overview.learning;
  const running = state === "running";
  const many = images === 1 ? "1 image" : `${images} images`;
  return html`
    <section>
      <h2>Learn</h2>
      <button class="main" disabled=${running} onClick=${() => learn(false)}>Learn from my corrections</button>
      ${running && html`<p><progress aria-label="Learning"></progress>
        <button onClick=${() => learn(true)}>Stop</button></p>`}
      ${state !== "none" && html`<p class="small" role="status">${{
        running: `Learns from ${many}${step > 1 ? `, step ${step}` : ""}: ${line}`,
        done: `Learned from ${many}. New masks are offered on those not finished.`,
        failed: `It failed: ${line}`,
        stopped: "It was stopped." }[state]}</p>`}
      <p class="small">Masks by <code>${overview.model}</code></p>
    </section>`;
}

const KEYS = [
  ["Point", "lights up what is most likely an object"],
  ["Wheel, [ and ], Page Up and Down", "walks to its parts, and to what it belongs to"],
  ["Click, Enter", "keeps what is lit; again removes it"],
  ["Drag", "over several makes one object of them (keys: M marks, Enter joins)"],
  ["Shift and drag, S", "a stroke splits an object"],
  ["Alt and click, T", "takes what is lit away from the object around it"],
  ["L", "draws an outline: drag around the object, or click its corners, then the first one or Enter"],
  ["1 to 9", "class of the object under the pointer, and of new ones"],
  ["Delete, X", "removes the object under the pointer"],
  ["A", "keeps all that is offered from the score on"],
  ["Ctrl+Z or U, Ctrl+Y", "undo, redo; of an outline the last corner"],
  ["F", "finishes the image and opens the one of most doubt"],
  ["N, P, D", "next, previous, the one of most doubt"],
  ["Ctrl and wheel, + and −", "zoom; the middle button moves the image"],
  ["H", "hides masks"],
  ["Arrow keys", "move the cursor without a pointer, with Shift further"],
  ["Esc", "gives up what was begun"],
];

function Help({ close }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`
    <dialog ref=${dialog} onClose=${close} aria-labelledby="keys">
      <h2 id="keys">Keys and the pointer</h2>
      <table>${KEYS.map(([key, does]) => html`<tr><th scope="row">${key}</th><td>${does}</td></tr>`)}</table>
      <form method="dialog"><button>Close</button></form>
    </dialog>`;
}

function sayLit(lit, stage, names) {
  if (stage?.tool === "draw") return "Drag around an object, or click its corners.";
  if (!lit) return "Point at an object.";
  if (lit.object) return `${names.get(lit.object.category)}, kept. Click removes it.`;
  const score = stage.items.scores[lit.item].toFixed(2);
  const does = stage.tool === "subtract" ? "takes it away" : "keeps it";
  return `Score ${score}, ${lit.at + 1} of ${lit.chain.length} from part to group. Click ${does}.`;
}

function sayAct({ act }, before, after) {
  const count = after.objects.length;
  const change = { keep: "Kept.", join: "Kept.", remove: "Removed.", split: "Split.", subtract: "Taken away.",
    draw: "Drawn.", classify: "Class changed.", undo: "Undone.", redo: "Done again.",
    finish: after.finished ? "Finished." : "Not finished.",
    "keep-all": `${count - before.objects.length} kept.` }[act];
  return `${change} ${count} ${count === 1 ? "object" : "objects"}.`;
}

const place = document.getElementById("app");
place.replaceChildren();
render(html`<${App} />`, place);
