/** Small line charts of the last minutes, with their newest and highest value in words. */

import { drawing, element } from "./dom.js";

const [WIDTH, HEIGHT] = [300, 72];
const SECONDS = 300;

export class Chart {
  #area = drawing("path", { class: "area" });
  #line = drawing("path", { class: "line" });
  #value = element("strong", {}, "–");
  #range = element("span", { class: "about" });
  #picture;
  #title;
  #format;

  constructor(title, format) {
    this.#title = title;
    this.#format = format;
    const axis = drawing("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 });
    this.#picture = drawing("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, axis, this.#area, this.#line);
    const caption = element("figcaption", {}, element("span", {}, title), this.#value);
    const times = element("div", { class: "times" }, element("span", {}, "5 minutes ago"), this.#range, element("span", {}, "now"));
    this.node = element("figure", { class: "chart" }, caption, this.#picture, times);
    this.show([]);
  }

  /** Draw points `{ age, value }`, oldest first. */
  show(points) {
    const highest = Math.max(...points.map(({ value }) => value), 0);
    const now = points.length ? this.#format(points.at(-1).value) : "–";
    this.#value.textContent = now;
    this.#range.textContent = points.length ? `highest ${this.#format(highest)}` : "nothing yet";
    this.#picture.setAttribute("aria-label", `${this.#title}: now ${now}, highest ${this.#format(highest)} in the last five minutes`);
    const at = ({ age, value }) =>
      `${(WIDTH * (1 - age / SECONDS)).toFixed(1)} ${(HEIGHT - 3 - (HEIGHT - 8) * (highest ? value / highest : 0)).toFixed(1)}`;
    const path = points.map(at).join(" L");
    this.#line.setAttribute("d", points.length ? `M${path}${points.length > 1 ? "" : " h0.1"}` : "");
    const begin = points.length ? (WIDTH * (1 - points[0].age / SECONDS)).toFixed(1) : 0;
    const end = points.length ? (WIDTH * (1 - points.at(-1).age / SECONDS)).toFixed(1) : 0;
    this.#area.setAttribute("d", points.length ? `M${begin} ${HEIGHT} L${path} L${end} ${HEIGHT} Z` : "");
  }
}
