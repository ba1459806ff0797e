// Conversations and settings, kept by the browser: conversations for good (the last fifty), the key for this tab.
"use strict";

const TALKS = "edge-lfm talks", FIELDS = "edge-lfm fields", MAX_TALKS = 50;
const KEPT_FIELDS = ["system", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "max_tokens", "seed", "schema"];

function stored(storage, name, otherwise) {
  try { return JSON.parse(storage.getItem(name)) ?? otherwise; } catch { return otherwise; }
}

function store(storage, name, value) {
  try { storage.setItem(name, JSON.stringify(value)); return true; } catch { return false; }
}

// All conversations, the one of last use first: {id, title, messages}.
function allTalks() {
  const talks = stored(localStorage, TALKS, []);
  return Array.isArray(talks) ? talks.filter(talk => talk && Array.isArray(talk.messages)) : [];
}

// Keep a conversation; where there is no room for all, the oldest are forgotten.
function keepTalk(talk) {
  let talks = [talk, ...allTalks().filter(other => other.id !== talk.id)].slice(0, MAX_TALKS);
  while (talks.length && !store(localStorage, TALKS, talks)) talks = talks.slice(0, -1);
}

function forgetTalk(id) { store(localStorage, TALKS, allTalks().filter(talk => talk.id !== id)); }

function keepFields() {
  store(localStorage, FIELDS, Object.fromEntries(KEPT_FIELDS.map(name => [name, document.getElementById(name).value])));
  store(sessionStorage, "key", document.getElementById("key").value);
}

function restoreFields() {
  for (const [name, value] of Object.entries(stored(localStorage, FIELDS, {})))
    if (KEPT_FIELDS.includes(name)) document.getElementById(name).value = value;
  document.getElementById("key").value = stored(sessionStorage, "key", "");
}

// A conversation as a file: as JSON, or in Markdown.
function exported(talk, form) {
  if (form === "json") return JSON.stringify({title: talk.title, messages: talk.messages}, null, 2) + "\n";
  const names = {user: "You", assistant: "Answer", system: "System"};
  return talk.messages.map(message => `## ${names[message.role] || message.role}\n\n${message.content}\n`).join("\n");
}

function save(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
