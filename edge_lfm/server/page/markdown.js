// Markdown as nodes of the page: headings, lists, tables, quotes, code, emphasis, links. Every character of an answer
// goes in by textContent, so that none becomes markup; of links only those to http and https lead anywhere.
"use strict";

const MAX_INLINE = 5000, MAX_DEPTH = 5;  // characters of one block in which marks are looked for: an unclosed one costs a search each
const INLINE = /(`+)([^]*?[^`])\1(?!`)|\*\*(?=\S)([^]*?\S)\*\*|\*(?=[^\s*])([^*]*[^\s*])\*|~~(?=\S)([^]*?\S)~~|\[([^\][]*)\]\((https?:\/\/[^\s()]+)\)|(https?:\/\/[^\s<>"'()]*[^\s<>"'().,;:!?])/g;

function element(tag, children = [], attributes = {}) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// The parts of a line: texts and nodes.
function inline(text, depth = 0) {
  if (text.length > MAX_INLINE || depth > MAX_DEPTH) return [text];
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, , code, bold, italic, struck, label, link, bare] = found;
    if (found.index > end) parts.push(text.slice(end, found.index));
    end = found.index + whole.length;
    if (code !== undefined) parts.push(element("code", [code]));
    else if (bold !== undefined) parts.push(element("strong", inline(bold, depth + 1)));
    else if (italic !== undefined) parts.push(element("em", inline(italic, depth + 1)));
    else if (struck !== undefined) parts.push(element("s", inline(struck, depth + 1)));
    else parts.push(element("a", [label || link || bare], {href: link || bare, rel: "noreferrer noopener", target: "_blank"}));
  }
  if (end < text.length) parts.push(text.slice(end));
  return parts;
}

const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/, ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+/, ROW = /^\s*\|.*\|\s*$/;

// A text cut into blocks, each as it stands: a fence from its mark to the next, or to the end; else lines of one kind.
function blocksOf(text) {
  const blocks = [];
  let lines = [], kind = "", fence = "";
  const close = () => { if (lines.length) blocks.push({kind, source: lines.join("\n")}); lines = []; kind = ""; };
  for (const line of text.split("\n")) {
    const mark = line.match(FENCE);
    if (fence) {
      lines.push(line);
      if (mark && mark[1].startsWith(fence) && !mark[2]) { fence = ""; close(); }
      continue;
    }
    const now = mark ? "code" : !line.trim() ? "" : /^#{1,6}\s/.test(line) ? "heading" : /^\s*([-*_])(\s*\1){2,}\s*$/.test(line) ? "rule"
      : ITEM.test(line) || (kind === "list" && /^\s+\S/.test(line)) ? "list" : /^\s*>/.test(line) ? "quote" : ROW.test(line) ? "table" : "text";
    if (now !== kind || now === "heading" || now === "rule") close();
    if (!now) continue;
    kind = now;
    lines.push(line);
    if (mark) fence = mark[1];
  }
  close();
  return blocks;
}

function codeBlock(source) {
  const lines = source.split("\n"), mark = lines[0].match(FENCE), ended = lines.length > 1 && lines.at(-1).trim().startsWith(mark[1]);
  const code = lines.slice(1, ended ? -1 : undefined).join("\n");
  const copy = element("button", ["Copy"], {type: "button", class: "small"});
  copy.addEventListener("click", () => copied(copy, code));
  const body = element("pre", [element("code", [code])], {tabindex: "0", role: "region", "aria-label": `code ${mark[2]}`.trim()});
  return element("div", [element("div", [element("span", [mark[2] || "code"]), copy], {class: "head"}), body], {class: "code"});
}

function listBlock(lines) {
  const first = lines[0].match(ITEM), depth = first[1].length, ordered = /\d/.test(first[2]);
  const list = element(ordered ? "ol" : "ul", [], ordered && parseInt(first[2]) !== 1 ? {start: String(parseInt(first[2]))} : {});
  let inner = [], item = null;
  const finish = () => {
    if (inner.length) item.append(ITEM.test(inner[0]) ? listBlock(inner) : element("p", inline(inner.map(l => l.trim()).join("\n"))));
    inner = [];
  };
  for (const line of lines) {
    const found = line.match(ITEM);
    if (found && found[1].length <= depth + 1) {
      finish();
      item = element("li", inline(line.slice(found[0].length)));
      list.append(item);
    } else {
      if (found && inner.length && !ITEM.test(inner[0])) finish();
      inner.push(line);
    }
  }
  finish();
  return list;
}

function tableBlock(lines) {
  const cells = line => line.trim().slice(1, -1).split("|").map(cell => inline(cell.trim()));
  const rule = lines.length > 1 && /^[\s|:-]+$/.test(lines[1]), rows = rule ? lines.slice(2) : lines;
  const head = rule ? [element("thead", [element("tr", cells(lines[0]).map(c => element("th", c, {scope: "col"})))])] : [];
  const body = element("tbody", rows.map(line => element("tr", cells(line).map(c => element("td", c)))));
  return element("div", [element("table", [...head, body])], {class: "scroll", tabindex: "0", role: "region", "aria-label": "table"});
}

function rendered({kind, source}) {
  const lines = source.split("\n");
  switch (kind) {
    case "code": return codeBlock(source);
    case "heading": return element("h" + Math.min(6, source.match(/^#+/)[0].length + 2), inline(source.replace(/^#+\s+|\s+#*$/g, "")));
    case "rule": return element("hr");
    case "list": return listBlock(lines);
    case "quote": {
      const quote = element("blockquote"), inside = lines.map(line => line.replace(/^[\s>]+/, "")).join("\n");
      quote.append(...blocksOf(inside).map(rendered));  // which has no quotes: marks of all depths are gone
      return quote;
    }
    case "table": return tableBlock(lines);
    default: return element("p", inline(source));
  }
}

// An element whose text grows: of a longer text only the blocks that changed are made anew.
class Rendered {
  constructor(host) { this.host = host; this.sources = []; }
  update(text) {
    const blocks = blocksOf(text);
    while (this.host.childNodes.length > blocks.length) this.host.lastChild.remove();
    blocks.forEach((block, n) => {
      if (this.sources[n] === block.source) return;
      const node = rendered(block);
      if (n < this.host.childNodes.length) this.host.childNodes[n].replaceWith(node);
      else this.host.append(node);
    });
    this.sources = blocks.map(block => block.source);
  }
}

async function copied(button, text) {
  const before = button.textContent;
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
  catch { button.textContent = "Not allowed"; }
  setTimeout(() => { button.textContent = before; }, 1500);
}
