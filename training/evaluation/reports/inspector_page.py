"""The inspector's page: its frame, style and script. No file beside it is needed, and nothing is fetched.

Works without the script: the two views are radio buttons and CSS. The script adds the filter, and j and k.
"""

STYLE = """\
:root{color-scheme:light dark;--bg:#fff;--ink:#1f2328;--quiet:#59636e;--rule:#d1d9e0;--panel:#f6f8fa;
--think:#8250df;--solve:#1a7f37;--bad:#cf222e;--gone:#ffebe9;--goneink:#82071e;--new:#dafbe1;--newink:#0a4a1e}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--ink:#e6edf3;--quiet:#9198a1;--rule:#3d444d;
--panel:#151b23;--think:#ab7df8;--solve:#3fb950;--bad:#ff7b72;--gone:#3c1a1e;--goneink:#ffc1ba;
--new:#12301c;--newink:#a6efb8}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",sans-serif}
main,header,.tools{max-width:1100px;margin:0 auto;padding:0 1rem}
header{padding-top:1.5rem}h1{font-size:1.5rem;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:1.75rem 0 .5rem}
h3{font-size:1rem;margin:0;display:flex;justify-content:space-between;gap:.5rem;overflow-wrap:anywhere}
small,.note,kbd{color:var(--quiet);font-size:.875rem;font-weight:400}.note{margin:.25rem 0}
.tools{position:sticky;top:0;z-index:1;background:var(--bg);border-bottom:1px solid var(--rule);
display:flex;flex-wrap:wrap;gap:.25rem .75rem;align-items:center;padding:.5rem 1rem}
.tools label,.tools button{font:inherit;padding:.3rem .7rem;border:1px solid var(--rule);border-radius:6px;
background:var(--panel);color:inherit;cursor:pointer}
.view{position:absolute;opacity:0}
#uncut:checked~.tools [for=uncut],#cut:checked~.tools [for=cut]{background:var(--ink);color:var(--bg)}
.view:focus-visible~.tools label[for],article:focus-visible,button:focus-visible{
outline:2px solid var(--think)}
#uncut:checked~main .cut,#cut:checked~main .uncut{display:none}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}
@media(max-width:700px){.pair{grid-template-columns:1fr}kbd{display:none}}
.panel{border:1px solid var(--rule);border-radius:8px;padding:.75rem;min-width:0}
.prompt,.solution{background:var(--panel);border-radius:6px;padding:.6rem .75rem;white-space:pre-wrap;
overflow-wrap:anywhere;margin:.5rem 0}
.solution{border-left:3px solid var(--solve)}
.bar{display:flex;height:10px;background:var(--panel);border-radius:3px;overflow:hidden;margin-top:.5rem}
.bar i{background:var(--think)}.bar u{background:var(--solve)}
ol{margin:.5rem 0;padding-left:2rem;font-size:.9375rem}
li{padding:.05rem .35rem;border-radius:4px;margin:2px 0;overflow-wrap:anywhere;white-space:pre-wrap}
li::marker{color:var(--quiet);font-size:.8rem}
.gone{background:var(--gone);color:var(--goneink)}.new{background:var(--new);color:var(--newink)}
.gone::marker{content:"\\2212\\00a0"}.new::marker{content:"+\\00a0"}
[data-first]{border-top:2px dashed var(--think);border-radius:0 0 4px 4px}
[data-first]::before{content:attr(data-first);display:inline-block;font-size:.75rem;
color:var(--think);width:100%}
.close{color:var(--quiet);font-size:.875rem;border-top:1px solid var(--rule);
padding-top:.35rem;margin:.5rem 0}
.right{color:var(--solve)}.wrong{color:var(--bad)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9375rem}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
td{font-variant-numeric:tabular-nums}.number{text-align:right}
.index{display:flex;flex-wrap:wrap;gap:.25rem;padding:0;list-style:none}
.index a{display:inline-block;min-width:2.1rem;padding:.1rem .4rem;text-align:center;color:inherit;
text-decoration:none;border:1px solid var(--rule);border-radius:4px}
.index .gained a{border-color:var(--solve);color:var(--solve)}
.index .lost a{border-color:var(--bad);color:var(--bad)}
td:not(.said){white-space:nowrap}.said{overflow-wrap:anywhere;min-width:12rem}
article{scroll-margin-top:4rem}body.only article:not(.shown){display:none}
"""

SCRIPT = """\
const all = [...document.querySelectorAll("article")], only = document.getElementById("only");
const view = () => document.getElementById("cut").checked ? "cut" : "uncut";
function filter() {
  document.body.classList.toggle("only", only.getAttribute("aria-pressed") === "true");
  for (const a of all) a.classList.toggle("shown", a.dataset.changed.split(" ").includes(view()));
  const left = document.querySelectorAll("article.shown").length;
  only.textContent = "only changed verdicts (" + left + ")";
}
function go(step) {
  const seen = all.filter(a => a.offsetParent !== null);
  const top = a => a.getBoundingClientRect().top - 80;
  const bottom = a => a.getBoundingClientRect().bottom;
  // From the problem gone to last, if it is in sight: the last ones can't all be scrolled to the top
  const at = seen.findIndex(a => a === document.activeElement && bottom(a) > 0 && top(a) < innerHeight);
  const next = at >= 0 ? seen[at + step]
    : step > 0 ? seen.find(a => top(a) > 4) : seen.filter(a => top(a) < -4).pop();
  if (next) { next.scrollIntoView(); next.focus({preventScroll: true}); }
}
only.hidden = false;
only.addEventListener("click", () => {
  only.setAttribute("aria-pressed", String(only.getAttribute("aria-pressed") !== "true"));
  filter();
});
for (const radio of document.querySelectorAll(".view")) radio.addEventListener("change", filter);
document.addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key === "j") go(1);
  if (e.key === "k") go(-1);
  if (e.key === "c") {
    document.getElementById(view() === "cut" ? "uncut" : "cut").checked = true;
    filter();
  }
});
filter();
"""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none';style-src 'unsafe-inline';script-src 'sha256-{script_hash}'">
<title>Reasoning inspector: {title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{before} and {after}</h1>
<p>The same problems before and after training, thinking uncut and cut ({strategy}). Steps that only
<b>{before}</b> takes are marked &minus;: they vanished. Steps that only <b>{after}</b> takes are
marked +: they are new. A bar
shows thinking, then solution tokens, to one scale a problem.</p>
</header>
<input class="view" type="radio" name="view" id="uncut">
<input class="view" type="radio" name="view" id="cut" checked>
<div class="tools" role="toolbar" aria-label="view">
<label for="cut">cut at {cut}</label><label for="uncut">{uncut}</label>
<button id="only" type="button" aria-pressed="false" hidden>only changed verdicts</button>
<kbd>j and k: next and previous problem; c: cut or not</kbd>
</div>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""
