// One output of an actor under a critic that pushes one way: the last layer's weights, stepped by Adam.
// The equations are those of docs/algorithm.md ("Optimiser", "Death, freeze and coasting"); a test follows the engine's Adam.

const UNITS = 16, HEIGHT = 38, START = 0.001, BETA2 = 0.999, EPS = 1e-8, SMALLEST_RMS = 1e-3, STEPS = 200;
const BITS = { float32: 24, float64: 53 };

/** |z| from which tanh z rounds to 1, so that 1 − tanh² z is exactly 0. */
function underflow(type) { return (BITS[type] + 2) / 2 * Math.LN2; }

/**
 * Arrays over the steps 0 … 200: z, slope = 1 − tanh² z and weight before step t + 1, and |change| of the weight in step t.
 * death: first step with a gradient of exactly 0 until the end; freeze: first step from which no weight changes; null if none.
 */
function simulate({ rate, scale, beta1, type, limit }) {
  const round = type === "float32" ? Math.fround : (x) => x;
  const h = round(HEIGHT * scale), numbers = UNITS + 1;
  const state = [h, 1].map((input) => ({ input, value: round(START), m: 0, v: 0 }));  // a weight and the bias
  const path = { z: [], slope: [], weight: [], change: [NaN] };
  let death = null, freeze = null;
  const tell = () => {
    const [weight, bias] = state;
    const z = round(UNITS * round(weight.value * h) + bias.value);
    const a = round(Math.tanh(z));
    path.z.push(z); path.slope.push(round(1 - round(a * a))); path.weight.push(weight.value);
  };
  tell();
  for (let t = 1; t <= STEPS; t++) {
    const slope = path.slope[t - 1], size = rate / (1 - beta1 ** t), correction = Math.sqrt(1 - BETA2 ** t);
    const changes = state.map((one) => {
      const gradient = round(-slope * one.input);
      one.m = round(one.m + round(round(1 - beta1) * round(gradient - one.m)));
      one.v = round(round(one.v * round(BETA2)) + round(round(gradient * gradient) * round(1 - BETA2)));
      const root = round(round(Math.sqrt(one.v)) / round(correction));
      return round(round(one.m / round(root + round(EPS))) * round(size));
    });
    const norm = (weight, bias) => Math.sqrt(UNITS * weight ** 2 + bias ** 2);
    const longest = limit * Math.max(norm(state[0].value, state[1].value), SMALLEST_RMS * Math.sqrt(numbers));
    const factor = limit ? round(Math.min(1, longest / (norm(...changes) || Infinity))) : 1;
    const moved = state.map((one, i) => {
      const before = one.value;
      one.value = round(before - round(changes[i] * factor));
      return one.value - before;
    });
    path.change.push(Math.abs(moved[0]));
    death = slope === 0 ? death ?? t : null;
    freeze = moved.every((x) => x === 0) ? freeze ?? t : null;
    tell();
  }
  return { ...path, death, freeze };
}
