/* How totals become integers of 8 bits: total * multiplier / 2^shift + zero_point, with a
   multiplier and a shift for every channel (per_channel 1), or one for all (0). lift is an even
   number that is larger in magnitude than any total * multiplier / 2^shift. */
struct rounding {
    const int32_t *multiplier;
    const uint8_t *shift;
    int32_t per_channel;
    int64_t lift;
    int32_t zero_point, low, high;
};

static uint8_t saturated(int64_t integer, const struct rounding *to)
{
    const int64_t least = integer < to->low ? to->low : integer;

    return (uint8_t)(least > to->high ? to->high : least);
}
