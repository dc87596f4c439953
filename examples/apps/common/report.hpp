// SPDX-License-Identifier: Apache-2.0
// A federation as a page: the tables, and curves drawn from the same numbers. Read next: ../quickstart.cpp.
#pragma once
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "federation.hpp"

namespace app {

namespace detail {

inline std::string number(double v, int digits = 4) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, v);
  return text;
}
inline std::string escaped(std::string_view s) {
  std::string out;
  for (const char c : s) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

/// Mean and worst held-out loss over the rounds, as an SVG of 720 x 300.
inline std::string curves(const federation_report& r) {
  double low = 1e9, high = -1e9;
  for (const auto& x : r.rounds) {
    low = std::min(low, x.mean);
    high = std::max(high, x.worst);
  }
  const double margin = std::max(1e-3, 0.05 * (high - low));
  low -= margin;
  high += margin;
  const auto x_of = [&](std::size_t i) { return 60 + 640.0 * static_cast<double>(i) / static_cast<double>(std::max<std::size_t>(1, r.rounds.size() - 1)); };
  const auto y_of = [&](double v) { return 20 + 240 * (high - v) / (high - low); };
  std::string svg = "<svg viewBox=\"0 0 720 300\" width=\"720\" height=\"300\" role=\"img\" aria-label=\"Held-out loss by round\">";
  for (int i = 0; i <= 4; ++i) {
    const double v = low + (high - low) * i / 4;
    svg += "<line x1=\"60\" x2=\"700\" y1=\"" + number(y_of(v), 1) + "\" y2=\"" + number(y_of(v), 1) + "\" class=\"grid\"/><text x=\"52\" y=\"" +
           number(y_of(v) + 4, 1) + "\" class=\"tick right\">" + number(v, 3) + "</text>";
  }
  for (std::size_t i = 0; i < r.rounds.size(); ++i)
    svg += "<text x=\"" + number(x_of(i), 1) + "\" y=\"280\" class=\"tick\">" + std::to_string(r.rounds[i].round) + "</text>";
  const auto curve = [&](const char* name, double round_row::*column) {
    svg += std::string("<polyline class=\"") + name + "\" points=\"";
    for (std::size_t i = 0; i < r.rounds.size(); ++i) svg += number(x_of(i), 1) + "," + number(y_of(r.rounds[i].*column), 1) + " ";
    svg += "\"/>";
  };
  curve("mean", &round_row::mean);
  curve("worst", &round_row::worst);
  return svg + "<text x=\"690\" y=\"" + number(y_of(r.rounds.back().mean) - 8, 1) + "\" class=\"tick right\">mean client</text><text x=\"690\" y=\"" +
         number(y_of(r.rounds.back().worst) - 8, 1) + "\" class=\"tick right\">worst client</text></svg>";
}

}  // namespace detail

/// A self-contained page. Losses in nats a token.
inline std::string html_report(const federation_report& r) {
  using detail::number;
  std::string h =
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>graft: federation report</title><style>"
      "body{font:16px/1.5 system-ui,sans-serif;max-width:760px;margin:2rem auto;padding:0 1rem;color:#1d2430}"
      "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #dde2ea}"
      "th:first-child,td:first-child{text-align:left}.grid{stroke:#e3e7ee}.tick{font-size:11px;fill:#5a6675;text-anchor:middle}.right{text-anchor:end}"
      "polyline{fill:none;stroke-width:2}.mean{stroke:#1f6feb}.worst{stroke:#c2410c}</style></head><body><h1>Federation report</h1>"
      "<p>A low-rank adapter on a frozen language model, averaged over the clients' own training. Losses are mean negative "
      "log-likelihoods of held-out text in nats a token; lower is better.</p><h2>Rounds</h2>";
  h += detail::curves(r);
  h += "<table><tr><th>round</th><th>mean</th><th>worst</th><th>KiB up</th><th>KiB down</th><th>refused</th></tr>";
  for (const auto& x : r.rounds)
    h += "<tr><td>" + std::to_string(x.round) + "</td><td>" + number(x.mean) + "</td><td>" + number(x.worst) + "</td><td>" +
         number(static_cast<double>(x.bytes_up) / 1024, 1) + "</td><td>" + number(static_cast<double>(x.bytes_down) / 1024, 1) + "</td><td>" +
         std::to_string(x.rejected) + "</td></tr>";
  h += "</table><h2>Clients</h2><table><tr><th>client</th><th>base</th><th>local only</th><th>federated</th><th>centralised</th></tr>";
  const auto row = [&](const std::string& label, double a, double b, double c, double d) {
    h += "<tr><td>" + detail::escaped(label) + "</td><td>" + number(a) + "</td><td>" + number(b) + "</td><td>" + number(c) + "</td><td>" + number(d) + "</td></tr>";
  };
  for (const auto& c : r.clients) row(c.label, c.base, c.local_only, c.federated, c.centralised);
  row("mean", r.mean(&client_row::base), r.mean(&client_row::local_only), r.mean(&client_row::federated), r.mean(&client_row::centralised));
  return h + "</table></body></html>\n";
}

}  // namespace app
