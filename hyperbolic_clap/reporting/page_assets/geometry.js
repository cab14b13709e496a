"use strict";
// Isometries of the Poincare disk, z -> (a z + b) / (conj(b) z + conj(a)) with |a|^2 - |b|^2 = 1, on pairs [x, y].
const plane = {
  times: ([a, b], [c, d]) => [a * c - b * d, a * d + b * c],
  plus: ([a, b], [c, d]) => [a + c, b + d],
  conj: ([a, b]) => [a, -b],
  size: ([a, b]) => Math.hypot(a, b),
  over: (z, [c, d]) => {
    const [x, y] = plane.times(z, [c, -d]), square = c * c + d * d;
    return [x / square, y / square];
  },
  rest: { a: [1, 0], b: [0, 0] },
  apply: ({ a, b }, z) => plane.over(plane.plus(plane.times(a, z), b), plane.plus(plane.times(plane.conj(b), z), plane.conj(a))),
  after: (second, first) => { // first, then second
    const a = plane.plus(plane.times(second.a, first.a), plane.times(second.b, plane.conj(first.b)));
    const b = plane.plus(plane.times(second.a, first.b), plane.times(second.b, plane.conj(first.a)));
    const scale = Math.sqrt(a[0] ** 2 + a[1] ** 2 - b[0] ** 2 - b[1] ** 2); // rounding would let it drift from 1
    return { a: [a[0] / scale, a[1] / scale], b: [b[0] / scale, b[1] / scale] };
  },
  // The translation along a line through the origin that takes the origin to z.
  toward: (z) => {
    const scale = 1 / Math.sqrt(1 - z[0] ** 2 - z[1] ** 2);
    return { a: [scale, 0], b: [z[0] * scale, z[1] * scale] };
  },
  back: ({ a, b }) => ({ a: plane.conj(a), b: [-b[0], -b[1]] }),
  // The translation along the geodesic from p to q that takes p to q, without a turn.
  translation: (p, q) => {
    const home = plane.back(plane.toward(p));
    return plane.after(plane.toward(p), plane.after(plane.toward(plane.apply(home, q)), home));
  },
  // Points of the geodesic from p to q: an arc of a circle.
  geodesic: (p, q, steps = 24) => {
    const there = plane.apply(plane.back(plane.toward(p)), q), length = Math.min(plane.size(there), 1 - 1e-12);
    return Array.from({ length: steps + 1 }, (_, i) => {
      const radius = length ? Math.tanh(i / steps * Math.atanh(length)) / length : 0;
      return plane.apply(plane.toward(p), [there[0] * radius, there[1] * radius]);
    });
  },
};
