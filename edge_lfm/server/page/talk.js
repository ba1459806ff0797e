// The conversation: what is asked, the answer as it streams, and what becomes of both.
"use strict";
const $ = id => document.getElementById(id);
const messages = [];
let running = null;  // the AbortController of the answer that streams
let talk = String(Date.now());  // the conversation's name in the store
let editing = -1;  // the question that the next one takes the place of

function headers() {
  const key = $("key").value.trim();
  return key ? {"Content-Type": "application/json", Authorization: "Bearer " + key} : {"Content-Type": "application/json"};
}

function body() {
  const system = $("system").value.trim();
  const said = messages.map(({role, content}) => ({role, content}));
  const asked = {stream: true, return_progress: true, stream_options: {include_usage: true},
    messages: system ? [{role: "system", content: system}, ...said] : said, truncation: "auto"};
  for (const name of ["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "max_tokens", "seed"])
    if ($(name).value !== "") asked[name] = Number($(name).value);
  const schema = $("schema").value.trim();
  if (schema) asked.response_format = {type: "json_schema", json_schema: {name: "answer", schema: JSON.parse(schema)}};
  return JSON.stringify(asked);
}

// An article of the conversation: its text, and what can be done with it.
function show(role, text, n = -1) {
  const article = element("article", [element("div", [], {class: "text"})], {class: role});
  write(article, text);
  if (n >= 0) equip(article, n);
  $("talk").append(article);
  $("talk").scrollTop = $("talk").scrollHeight;
  return article;
}

function write(article, text) {
  const place = article.querySelector(".text");
  if (article.className !== "assistant") { place.textContent = text; return; }
  article.markdown ??= new Rendered(place);
  article.markdown.update(text);
}

function equip(article, n) {
  const copy = element("button", ["Copy"], {type: "button", class: "small"});
  copy.addEventListener("click", () => copied(copy, messages[n].content));
  const tools = element("div", [copy], {class: "tools"});
  if (messages[n].role === "user") {
    const edit = element("button", ["Edit"], {type: "button", class: "small"});
    edit.addEventListener("click", () => { if (!running) { editing = n; $("prompt").value = messages[n].content; grow(); $("prompt").focus(); } });
    tools.append(edit);
  }
  article.append(tools);
}

// The whole conversation anew.
function redraw() {
  $("talk").replaceChildren();
  messages.forEach((message, n) => {
    const article = show(message.role, message.content, n);
    if (message.cut) complain(article, message.cut);
  });
  $("again").disabled = !messages.length;
}

function complain(article, text) { article.append(element("p", [text], {class: "error", role: "alert"})); }

function keep() {
  if (!messages.length) return;
  keepTalk({id: talk, title: messages[0].content.slice(0, 80), messages});
  list();
}

function list() {
  const rows = allTalks().map(one => {
    const open = element("button", [one.title || "…"], {type: "button"}), drop = element("button", ["Delete"], {type: "button"});
    drop.setAttribute("aria-label", "Delete " + one.title);
    open.addEventListener("click", () => enter(one));
    drop.addEventListener("click", () => { forgetTalk(one.id); if (one.id === talk) restart(); list(); });
    return element("li", [open, drop], one.id === talk ? {"aria-current": "true"} : {});
  });
  $("talks").querySelector("ol").replaceChildren(...rows);
}

// Go on with a conversation that was kept.
function enter(one) {
  restart();
  talk = one.id;
  messages.push(...one.messages.filter(m => m && typeof m.content === "string" && ["user", "assistant"].includes(m.role)));
  redraw();
  list();
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const {value, done} = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines)
      if (line.startsWith("data: {")) yield JSON.parse(line.slice(6));
  }
}

function figures(parts) { $("figures").textContent = parts.filter(Boolean).join(" · "); }

async function experts() {  // how often experts were in memory, if they are paged
  const response = await fetch("/metrics", {headers: headers()}).catch(() => null);
  if (!response || !response.ok) return null;
  const text = await response.text();
  const value = name => Number((text.match(new RegExp("^" + name + " (\\S+)", "m")) || [])[1]);
  const hits = value("edge_lfm_expert_hits_total"), misses = value("edge_lfm_expert_misses_total");
  return hits + misses > 0 ? {hits, misses, bytes: value("edge_lfm_expert_read_bytes_total")} : null;
}

function since(before, now) {
  if (!before || !now) return "";
  const hits = now.hits - before.hits, all = hits + now.misses - before.misses;
  return all ? `experts in memory ${(100 * hits / all).toFixed(1)} %, ${((now.bytes - before.bytes) / 1e6).toFixed(0)} MB read` : "";
}

async function answer() {
  const mine = running = new AbortController(), of = talk;
  $("send").textContent = "Stop";
  $("again").disabled = true;
  $("talk").setAttribute("aria-busy", "true");
  const article = show("assistant", ""), place = article.querySelector(".text"), started = performance.now();
  let text = "", thoughts = null, bar = null, tokens = 0, first = 0, before = await experts(), now = null, speed = "", failure = "", drawing = 0;
  const draw = () => { drawing = 0; write(article, text); follow(); };
  const watch = setInterval(async () => { now = await experts(); }, 2000);
  try {
    const response = await fetch("/v1/chat/completions", {method: "POST", headers: headers(), body: body(), signal: mine.signal});
    if (!response.ok) throw new Error((await response.json()).error.message);
    let ended = false;
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.prompt_progress) {
        const p = event.prompt_progress;
        if (!bar && p.processed < p.total) article.append(bar = element("progress", [], {"aria-label": "reading the prompt"}));
        if (bar) [bar.max, bar.value] = [p.total, p.processed];
        figures([`reading the prompt: ${p.processed} of ${p.total} tokens`, p.cache ? `${p.cache} known` : ""]);
      }
      if (event.timings) speed = `${event.timings.predicted_per_second.toFixed(1)} tok/s`;
      if (event.usage) {
        const cached = event.usage.prompt_tokens_details.cached_tokens;
        figures([`prompt ${event.usage.prompt_tokens} tokens` + (cached ? `, ${cached} known` : ""),
          `answer ${event.usage.completion_tokens} tokens`, speed, since(before, await experts())]);
      }
      for (const choice of event.choices || []) {
        if (choice.delta.reasoning_content || choice.delta.content || choice.delta.tool_calls) { bar?.remove(); bar = null; }
        ended ||= Boolean(choice.finish_reason);
        if (choice.delta.reasoning_content) {
          if (!thoughts) {
            thoughts = element("span");
            article.insertBefore(element("details", [element("summary", ["thinking"]), thoughts], {open: ""}), place);
          }
          thoughts.textContent += choice.delta.reasoning_content;
        }
        for (const call of choice.delta.tool_calls || [])
          text += "\n```json\n" + JSON.stringify({call: call.function.name, arguments: JSON.parse(call.function.arguments)}, null, 2) + "\n```\n";
        if (choice.delta.content) {
          first = first || performance.now();
          tokens += 1;
          text += choice.delta.content;
          if (thoughts) article.querySelector("details").open = false;
          figures([`${tokens} pieces`, rate(tokens, first), since(before, now)]);
        }
      }
      drawing = drawing || requestAnimationFrame(draw);
    }
    if (!ended) throw new Error("the server ended before the answer did");
  } catch (error) {
    if (error.name !== "AbortError") failure = error.message;
    else if (of === talk) figures([`stopped after ${((performance.now() - started) / 1000).toFixed(1)} s`]);
  }
  clearInterval(watch);
  cancelAnimationFrame(drawing);
  bar?.remove();
  running = null;
  $("send").textContent = "Send";
  $("talk").removeAttribute("aria-busy");
  if (of !== talk) return;  // its conversation was left
  end(article, text, failure);
}

// What is left of an answer: all of it, or what came before it failed with the reason beside it, or the question alone.
function end(article, text, failure) {
  if (text) {
    messages.push({role: "assistant", content: text, ...(failure ? {cut: failure} : {})});
    write(article, text);
    equip(article, messages.length - 1);
    if (failure) complain(article, failure);
  } else if (failure) {
    article.className = "error";
    write(article, failure);
    article.setAttribute("role", "alert");
    const last = messages.pop();
    $("prompt").value = last ? last.content : "";
    grow();
  } else article.remove();
  keep();
  $("again").disabled = !messages.length;
  $("prompt").focus();
}

// Stay at the end of the answer, unless its reader has gone up.
function follow() {
  const talk = $("talk");
  if (talk.scrollHeight - talk.scrollTop - talk.clientHeight < 200) talk.scrollTop = talk.scrollHeight;
}

function rate(tokens, first) {
  return tokens > 1 ? `${((tokens - 1) * 1000 / (performance.now() - first)).toFixed(1)} tok/s` : "";
}

function grow() { $("prompt").style.height = "auto"; $("prompt").style.height = $("prompt").scrollHeight + 2 + "px"; }

function send() {
  if (running) { running.abort(); return; }
  const text = $("prompt").value.trim();
  if (!text) return;
  try { if ($("schema").value.trim()) JSON.parse($("schema").value); }
  catch (error) { show("error", "The JSON schema is not JSON: " + error.message); return; }
  $("prompt").value = "";
  grow();
  if (editing >= 0) { messages.length = editing; redraw(); }
  editing = -1;
  messages.push({role: "user", content: text});
  show("user", text, messages.length - 1);
  keep();
  answer();
}

function regenerate() {
  if (running || !messages.length) return;
  if (messages.at(-1).role === "assistant") {
    messages.pop();
    $("talk").querySelector("article.assistant:last-of-type")?.remove();
  }
  answer();
}

function restart() {
  if (running) running.abort();
  talk = String(Math.max(Date.now(), Number(talk) + 1));
  editing = -1;
  messages.length = 0;
  $("talk").replaceChildren();
  figures([]);
  $("again").disabled = true;
  $("prompt").focus();
}

$("ask").addEventListener("submit", event => { event.preventDefault(); send(); });
$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!running) send(); }
});
$("again").addEventListener("click", regenerate);
$("new").addEventListener("click", restart);
for (const [button, panel] of [["more", "settings"], ["old", "talks"]])
  $(button).addEventListener("click", () => {
    $(panel).hidden = !$(panel).hidden;
    $(button).setAttribute("aria-expanded", String(!$(panel).hidden));
  });
$("settings").addEventListener("input", keepFields);
for (const [button, form, type] of [["as_json", "json", "application/json"], ["as_markdown", "md", "text/markdown"]])
  $(button).addEventListener("click", () => save("conversation." + form, exported({title: document.title, messages}, form), type));
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && running) running.abort();
  else if (event.key === "Escape" && editing >= 0) { editing = -1; $("prompt").value = ""; grow(); }
  if (event.altKey && event.key === "r") regenerate();
  if (event.altKey && event.key === "n") restart();
});
restoreFields();
const last = stored(sessionStorage, "talk", null), kept = allTalks().find(one => one.id === last);
if (kept) enter(kept);
list();
addEventListener("pagehide", () => store(sessionStorage, "talk", talk));
