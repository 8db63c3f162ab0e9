"""Model-local ONNX functions in ONNX's own text form: a file carries the ones that it calls.

Integer functions take int64. The QONNX bodies have the signature and the meaning of the operators of the
same name in `qonnx.custom_op.general`, so that a runtime without these operators runs the file all the same.
"""

from __future__ import annotations

from lpgnas.number_formats import Rounding

_SHIFT_FLOOR = """
ShiftFloor <to> (total, divisor, low, high) => (codes) {
  remainder = Mod (total, divisor)
  exact = Sub (total, remainder)
  shifted = Div (exact, divisor)
  clipped = Clip (shifted, low, high)
  codes = Cast <to: int = @to> (clipped)
}"""

_SHIFT_HALF_UP = """
ShiftHalfUp <to> (total, divisor, low, high) => (codes) {
  two = Constant <value_int = 2> ()
  half = Div (divisor, two)
  raised = Add (total, half)
  remainder = Mod (raised, divisor)
  exact = Sub (raised, remainder)
  shifted = Div (exact, divisor)
  clipped = Clip (shifted, low, high)
  codes = Cast <to: int = @to> (clipped)
}"""

_SHIFT_HALF_EVEN = """
ShiftHalfEven <to> (total, divisor, low, high) => (codes) {
  one = Constant <value_int = 1> ()
  two = Constant <value_int = 2> ()
  part = Mod (total, divisor)
  whole = Sub (total, part)
  quotient = Div (whole, divisor)
  odd = Mod (quotient, two)
  half = Div (divisor, two)
  below_half = Sub (half, one)
  addend = Add (below_half, odd)
  raised = Add (total, addend)
  remainder = Mod (raised, divisor)
  exact = Sub (raised, remainder)
  shifted = Div (exact, divisor)
  clipped = Clip (shifted, low, high)
  codes = Cast <to: int = @to> (clipped)
}"""

SHIFTS = {
    Rounding.FLOOR: _SHIFT_FLOOR,
    Rounding.HALF_UP: _SHIFT_HALF_UP,
    Rounding.HALF_EVEN: _SHIFT_HALF_EVEN,
}
"""`total / divisor` (a power of two >= 2) rounded once and saturated to [low, high], as the type `to`. `Mod` has the
divisor's sign, so that `(a - Mod(a, 2^s)) / 2^s` is the arithmetic shift."""

RECIPROCAL = """
Reciprocal (denominator, numerator) => (quotient) {
  one = Constant <value_int = 1> ()
  two = Constant <value_int = 2> ()
  positive = Max (denominator, one)
  present = Min (denominator, one)
  raised = Add (numerator, positive)
  doubled = Mul (positive, two)
  rounded = Div (raised, doubled)
  quotient = Mul (rounded, present)
}"""
"""`floor((2^(b+1) + d) / (2 d))`, 0 for d = 0; `numerator` is 2^(b+1)."""

INVERSE_SQRT = """
InverseSqrt15 (degree) => (coefficient) {
  one = Constant <value_int = 1> ()
  two = Constant <value_int = 2> ()
  limit = Constant <value_int = 4294967296> ()
  first = Constant <value_int = 32768> ()
  trips = Constant <value_int = 16> ()
  always = Constant <value = bool {1}> ()
  zero = Sub (degree, degree)
  found, last = Loop <body = digit (int64 trip, bool go, int64[N, M] known, int64 step)
      => (bool go_on, int64[N, M] better, int64 half_step) {
    candidate = Add (known, step)
    twice = Add (candidate, candidate)
    root = Sub (twice, one)
    square = Mul (root, root)
    product = Mul (square, degree)
    fits = LessOrEqual (product, limit)
    better = Where (fits, candidate, known)
    half_step = Div (step, two)
    go_on = Identity (go)
  }> (trips, always, zero, first)
  present = Min (degree, one)
  coefficient = Mul (found, present)
}"""
"""The largest c with (2c - 1)^2 d <= 2^32, one binary digit a trip; 0 for d = 0. Below degree 2^20 every product stays
below 2^54."""

_SCATTER = """
{name} (updates, target, num_nodes, initial) => (rows) {{
  one = Constant <value_ints = [1]> ()
  column = Unsqueeze (target, one)
  update_shape = Shape (updates)
  targets = Expand (column, update_shape)
  width = Shape <start = 1> (updates)
  row_shape = Concat <axis = 0> (num_nodes, width)
  start = Expand (initial, row_shape)
  rows = ScatterElements <axis = 0, reduction = "{reduction}"> (start, targets, updates)
}}"""

SCATTERS = {
    "add": _SCATTER.format(name="SumOverEdges", reduction="add"),
    "max": _SCATTER.format(name="MaxOverEdges", reduction="max"),
}
"""The sum or maximum of edge rows [E, C] a target node [N, C]; `initial` where a node has no edges."""

UNPACK_SIGNS = """
UnpackSigns (packed, masks, count, shape) => (codes) {
  flat_shape = Constant <value_ints = [-1]> ()
  first = Constant <value_ints = [0]> ()
  two_int = Constant <value_int = 2> ()
  two = CastLike (two_int, packed)
  zero_int = Constant <value_int = 0> ()
  zero = CastLike (zero_int, packed)
  bits = BitwiseAnd (packed, masks)
  flat = Reshape (bits, flat_shape)
  used = Slice (flat, first, count)
  shaped = Reshape (used, shape)
  positive = Cast <to = 9> (shaped)
  codes = Where (positive, two, zero)
}"""
"""Packed bits [B, 1] uint8 as uint8 of `shape`: 2 for a set bit, else 0."""

QONNX_DOMAIN = "qonnx.custom_op.general"

_QUANT = """
Quant <signed, narrow, rounding_mode> (x, scale, zero_point, bit_width) => (y) {{
  signed_int = Constant <value_int: int = @signed> ()
  narrow_int = Constant <value_int: int = @narrow> ()
  is_signed = CastLike (signed_int, x)
  is_narrow = CastLike (narrow_int, x)
  one_int = Constant <value_int = 1> ()
  two_int = Constant <value_int = 2> ()
  one = CastLike (one_int, x)
  two = CastLike (two_int, x)
  magnitude_bits = Sub (bit_width, is_signed)
  levels = Pow (two, magnitude_bits)
  is_unsigned = Sub (one, is_signed)
  unused_top = Mul (is_narrow, is_unsigned)
  top = Sub (levels, one)
  high = Sub (top, unused_top)
  narrowed = Sub (is_narrow, levels)
  low = Mul (is_signed, narrowed)
  scaled = Div (x, scale)
  shifted = Add (scaled, zero_point)
  capped = Min (shifted, high)
  clamped = Max (capped, low)
  rounded = {rounding} (clamped)
  centred = Sub (rounded, zero_point)
  y = Mul (centred, scale)
}}"""

QUANT_BODIES = {"ROUND": _QUANT.format(rounding="Round"), "FLOOR": _QUANT.format(rounding="Floor")}
"""One body a rounding mode: a body cannot branch on a text attribute, and a file uses one mode only."""

BIPOLAR_QUANT = """
BipolarQuant (x, scale) => (y) {
  one_int = Constant <value_int = 1> ()
  one = CastLike (one_int, x)
  minus_one = Neg (one)
  zero = Sub (one, one)
  positive = GreaterOrEqual (x, zero)
  sign = Where (positive, one, minus_one)
  y = Mul (sign, scale)
}"""
