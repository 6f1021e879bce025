// The HTML report's style sheet: light and dark, screen and paper.
#pragma once

namespace kvsteward::worker {

inline constexpr char kReportStyle[] = R"css(
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1a2129; --soft: #5b6773; --line: #dfe4ea; --empty: #eef1f4;
  --other: #9fb0c0; --pair: #3d7ac4; --asked: #d9480f; --question: #2f9e6e;
  --p0: #8a94a0; --p1: #2f9e6e; --p2: #12879c; --p3: #7a52c7; --p4: #c2852b; --p5: #d9480f; --p6: #2563c9; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161b; --card: #1b2128; --ink: #e6eaef; --soft: #9aa7b4; --line: #313a44; --empty: #262e36;
  --other: #5f7182; --pair: #6ba6ee; --asked: #ff8a4c; --question: #4cc38a;
  --p0: #99a4b0; --p1: #4cc38a; --p2: #3fb9d0; --p3: #ab8bf0; --p4: #e0b04a; --p5: #ff8a4c; --p6: #6ba6ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 8px; letter-spacing: -0.01em; max-width: 32em; }
h2 { font-size: 19px; margin: 44px 0 10px; }
h3 { font-size: 15px; margin: 0 0 8px; }
p { margin: 0 0 10px; max-width: 76em; }
.soft { color: var(--soft); }
.eyebrow { color: var(--soft); font-size: 13px; letter-spacing: .06em; text-transform: uppercase; margin-bottom: 6px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin: 26px 0 0; }
.card + .card { margin-top: 14px; }
.pair .card + .card, .tiles .card + .card { margin-top: 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; }
.tile b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 14px; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 0 0 12px; font-size: 13px; }
.legend span { display: inline-flex; align-items: center; gap: 7px; }
.legend svg { width: 26px; height: 14px; }
.legend i { width: 12px; height: 12px; border-radius: 2px; display: inline-block; }
svg text { fill: var(--soft); font-size: 12px; }
svg.chart { width: 100%; height: auto; display: block; }
.grid { stroke: var(--line); stroke-width: 1; }
.full { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 5 4; }
.line { fill: none; stroke: var(--c); stroke-width: 1.6; opacity: .55; }
.whisker { stroke: var(--c); stroke-width: 1.6; }
.marker { fill: var(--c); stroke: var(--card); stroke-width: 1; }
.default .line { stroke-width: 3; opacity: 1; }
.p0 { --c: var(--p0); } .p1 { --c: var(--p1); } .p2 { --c: var(--p2); } .p3 { --c: var(--p3); }
.p4 { --c: var(--p4); } .p5 { --c: var(--p5); } .p6 { --c: var(--p6); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 8px; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: 12.5px; }
td:first-child, th:first-child { text-align: left; }
tr.group td { border-top: 2px solid var(--line); }
tr:last-child td { border-bottom: 0; }
td i { display: block; height: 8px; border-radius: 2px; background: var(--c, var(--ink)); }
td.track { width: 76px; padding-right: 0; }
svg.kept { width: 100%; height: auto; display: block; }
svg.kept text { font-size: 9px; }
svg.kept text.count { font-size: 8px; }
svg.kept path { fill: none; stroke-width: 8; }
svg.kept .tall path { stroke-width: 12; }
.empty { fill: var(--empty); }
path.other { stroke: var(--other); } path.pair { stroke: var(--pair); }
path.asked { stroke: var(--asked); } path.question { stroke: var(--question); }
i.other { background: var(--other); } i.pair { background: var(--pair); }
i.asked { background: var(--asked); } i.question { background: var(--question); }
.picture { margin: 18px 0 0; }
.picture h3 { margin: 0 0 4px; } .picture h3 span { font-weight: 400; color: var(--soft); margin-left: 8px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; margin: 0; }
dt { font-weight: 600; } dd { margin: 0; }
@media (max-width: 600px) { .pair { grid-template-columns: 1fr; } dl { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
)css";

}  // namespace kvsteward::worker
