"""The style sheet of the HTML report."""

from __future__ import annotations

STYLE = """
:root { --ink:#1f2933; --quiet:#66727f; --line:#dfe3e8; --page:#f7f8fa; --card:#fff; --fill:#2f6fb0; --track:#e6eaef;
  --chosen:#d9480f; --early:#9aa5b1; --good:#1b7f4b; --bad:#b42318; --bit:#2f6fb0; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ed; --quiet:#9aa7b4; --line:#303842; --page:#14181d;
  --card:#1c2229; --fill:#5b9bdb; --track:#2b333d; --chosen:#ff8a4c; --early:#77838f; --good:#4ec98a; --bad:#ff7b6b;
  --bit:#5b9bdb; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--page); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif; }
main { max-width:1080px; margin:0 auto; padding:32px 20px 48px; }
h1 { font-size:30px; line-height:1.2; margin:2px 0 4px; overflow-wrap:anywhere; }
h2 { font-size:19px; margin:0 0 14px; }
h3 { font-size:14px; margin:0 0 8px; display:flex; justify-content:space-between; gap:12px; }
h3 .quiet { font-weight:400; }
p { margin:0 0 10px; }
.eyebrow { color:var(--quiet); font-size:13px; letter-spacing:.04em; margin:0; }
.lead,.quiet,.note { color:var(--quiet); }
.note { font-size:13px; margin:12px 0 0; }
section { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:20px 22px;
  margin-top:18px; }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(190px,1fr)); gap:12px; margin-top:18px; }
.tile { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:12px 16px;
  display:flex; flex-direction:column; }
.tile strong { font-size:25px; line-height:1.25; font-variant-numeric:tabular-nums; }
.tile .what,.tile .under { color:var(--quiet); font-size:13px; }
.tile.good strong,.good { color:var(--good); } .tile.bad strong,.bad { color:var(--bad); }
.verdict { font-weight:600; }
.size + .size { margin-top:14px; }
.line { display:flex; justify-content:space-between; gap:4px 16px; flex-wrap:wrap; }
.used { font-variant-numeric:tabular-nums; } .share { display:inline-block; min-width:62px; text-align:right; }
.bar { height:12px; margin-top:5px; border-radius:6px; background:var(--track); overflow:hidden;
  print-color-adjust:exact; -webkit-print-color-adjust:exact; }
.bar span { display:block; height:100%; background:var(--fill); } .bar .over { background:var(--bad); }
.bar.open { height:3px; }
.pair { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr)); gap:8px 24px;
  align-items:start; }
.columns { display:grid; grid-template-columns:repeat(auto-fit,minmax(240px,1fr)); gap:8px 24px; align-items:start;
  margin-bottom:16px; }
.scroll { overflow-x:auto; }
table { border-collapse:collapse; width:100%; font-size:14px; }
th { text-align:left; font-weight:600; font-size:13px; color:var(--quiet); vertical-align:bottom; }
th,td { padding:5px 14px 5px 0; border-bottom:1px solid var(--line); }
tbody tr:last-child td { border-bottom:0; }
.number { text-align:right; font-variant-numeric:tabular-nums; } th:last-child,td:last-child { padding-right:0; }
td.number { white-space:nowrap; }
#verification td:first-child,#components td:nth-child(2) { white-space:nowrap; }
#record td:last-child { overflow-wrap:anywhere; }
code { font:12px/1.4 ui-monospace,"DejaVu Sans Mono",monospace; overflow-wrap:anywhere; }
details { margin-top:12px; } summary { cursor:pointer; font-weight:600; font-size:14px; margin-bottom:8px; }
.flow { display:flex; flex-wrap:wrap; align-items:stretch; gap:10px; }
.block { flex:1 1 255px; border:1px solid var(--line); border-radius:8px; padding:12px 14px; background:var(--page);
  break-inside:avoid; }
.block.end { flex:0 1 140px; align-self:center; background:none; }
.block.end .tensor { grid-template-columns:auto 1fr; }
.block.end p { margin:6px 0 0; font-size:13px; }
.arrow { align-self:center; color:var(--quiet); font-size:20px; }
.step { margin:10px 0 3px; font-size:13px; color:var(--quiet); }
.tensor { display:grid; grid-template-columns:auto 1fr auto 46px; gap:0 7px; align-items:center;
  font-size:13.5px; }
.tensor span { white-space:nowrap; }
.tensor .shape { font-size:12.5px; white-space:nowrap; } .tensor .width { text-align:right; white-space:nowrap; }
.bits { display:inline-flex; gap:2px; }
.bits i { width:7px; height:11px; border-radius:1.5px; background:var(--bit); print-color-adjust:exact;
  -webkit-print-color-adjust:exact; }
.pareto { width:100%; height:auto; display:block; }
svg text { fill:var(--quiet); font-size:12px; } svg .axis { fill:var(--ink); font-size:13px; }
svg .grid { stroke:var(--line); } svg line.budget { stroke:var(--bad); stroke-dasharray:5 3; stroke-width:1.3; }
svg text.budget { fill:var(--bad); }
svg .front { fill:none; stroke:var(--ink); stroke-opacity:.65; stroke-width:1.4; }
svg .point { stroke-width:1.4; } svg .early { fill:var(--card); stroke:var(--early); }
svg .final { fill:var(--fill); stroke:var(--card); } svg .chosen { fill:var(--chosen); stroke:var(--card); }
.legend { display:flex; flex-wrap:wrap; gap:4px 20px; font-size:13px; color:var(--quiet); margin:6px 0 0; }
.legend span { display:inline-flex; align-items:center; gap:4px; } .key { width:20px; height:20px; }
@media (max-width:640px) { main { padding:20px 12px; } section { padding:16px 14px; } .arrow { display:none; }
  .block,.block.end { flex:1 1 100%; } }
@page { margin:12mm; }
@media print { body { background:#fff; font-size:10.5px; } main { max-width:none; padding:0; }
  h1 { font-size:22px; } h2 { font-size:14px; margin-bottom:8px; break-after:avoid; } h3 { font-size:11px; }
  section,.tile { border-color:#ccc; } section { padding:10px 14px; margin-top:10px; break-inside:avoid; }
  .tiles { grid-template-columns:repeat(4,1fr); } .tile { padding:8px 12px; } .tile strong { font-size:17px; }
  .note,.lead,.step,.legend,.tile .what,.tile .under,.block.end p,details > summary { font-size:10px; }
  .tensor,.tensor .shape { font-size:10px; } .bits i { width:5px; height:8px; } .block { flex-basis:185px; }
  .block.end { flex-basis:105px; } .arrow { font-size:14px; } .bar { height:8px; }
  table,th,code { font-size:9.5px; } th,td { padding-top:3px; padding-bottom:3px; }
  .pair { grid-template-columns:1fr 1fr; } .columns { grid-template-columns:1fr 1.2fr 1.4fr; }
  #record,#components { break-inside:auto; } tr { break-inside:avoid; } }
"""
"""Colours are variables with a dark set; widths wrap by themselves; bars and bits keep their colour on paper."""
